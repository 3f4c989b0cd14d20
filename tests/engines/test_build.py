"""From spec to runner: two processes at once, a size that is new, an engine that is swapped."""

import multiprocessing
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from engines.batching import Lanes
from engines.build import SwappingRunner, open_at_once, open_runner
from engines.cache import cache_folder
from engines.engine import LocalEngine
from engines.runner import Frame, InferenceError, Layout, Plane, PlaneFrame
from tests.support.engines import picture_planes, run, spec_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))


def frame(value: int) -> PlaneFrame:
    return PlaneFrame((np.full((2, 2), value, np.uint8),), (np.zeros((2, 2), np.uint8),))


class Adder:
    """Adds a number to each frame, and checks that it is never used after its end."""

    def __init__(self, number: int, batch: int = 1) -> None:
        self.number, self.closed, self.pinned, self.batches = number, False, list[Plane](), list[int]()
        self.poison, self.fits = -1, batch

    def infer(self, frames: Sequence[Frame]) -> None:
        assert not self.closed
        self.batches.append(len(frames))
        if any(f.inputs[0][0, 0] == self.poison for f in frames) or len(frames) > self.fits:
            raise InferenceError("not this one")
        for f in frames:
            np.copyto(f.outputs[0], f.inputs[0] + self.number)

    def pin(self, memory: Plane) -> None:
        self.pinned.append(memory)

    def unpin(self, memory: Plane) -> None:
        self.pinned = [pinned for pinned in self.pinned if pinned is not memory]

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def test_a_runner_is_swapped_between_frames_and_none_is_lost() -> None:
    first, second, ready = Adder(1), Adder(2), threading.Event()

    def better() -> Adder:
        ready.wait()
        return second

    runner = SwappingRunner(first, better)
    runner.pin(memory := np.zeros(4, np.uint8))
    lanes, frames = Lanes(runner, Layout(lanes=3)), [frame(i % 100) for i in range(3000)]
    futures = [lanes.submit(f) for f in frames[:1000]]
    ready.set()
    futures += [lanes.submit(f) for f in frames[1000:]]
    assert all(future.result(10) >= 0 for future in futures)
    assert runner.settled.wait(10)
    last = frame(7)
    lanes.submit(last).result(10)
    assert last.outputs[0][0, 0] == 9
    assert all(f.outputs[0][0, 0] - f.inputs[0][0, 0] in (1, 2) for f in frames)
    assert first.closed and not second.closed and second.pinned == [memory]
    runner.unpin(memory)
    assert not second.pinned
    lanes.close()
    runner.close()
    assert second.closed


def test_a_better_engine_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def better() -> Adder:
        raise InferenceError("no memory left")

    runner = SwappingRunner(Adder(1), better)
    assert runner.settled.wait(10)
    runner.infer([one := frame(1)])
    assert one.outputs[0][0, 0] == 2 and "no memory left" in caplog.text
    runner.close()


def test_a_new_size_is_served_at_once_and_its_own_engine_takes_over() -> None:
    spec = spec_of("xlsr", 4, "yuv420", 96, 64)
    inputs = picture_planes("yuv420", 64, 96)
    expected = run("openvino", spec_of("xlsr", 4, "yuv420", None, None), inputs)
    runner = open_at_once("openvino", spec)
    assert isinstance(runner, SwappingRunner)
    for _ in range(2):
        outputs = tuple(np.zeros_like(plane) for plane in expected)
        runner.infer([PlaneFrame(inputs, outputs)])
        assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(outputs, expected, strict=True))
        assert runner.settled.wait(60)
    runner.close()
    again = open_at_once("openvino", spec)
    assert not isinstance(again, SwappingRunner)
    again.close()


def test_frames_that_wait_leave_together_and_a_bad_one_fails_alone() -> None:
    runner, gate = Adder(1, batch=4), threading.Event()
    runner.poison = 66
    original = runner.infer

    def held(frames: Sequence[Frame]) -> None:
        gate.wait()
        original(frames)

    runner.infer = held  # type: ignore[method-assign]
    lanes = Lanes(runner, Layout(lanes=1, batch=4))
    futures = [lanes.submit(frame(value)) for value in (1, 2, 66, 4, 5, 6, 7)]
    gate.set()
    failures = [future.exception(10) for future in futures]
    assert [isinstance(f, InferenceError) for f in failures] == [False, False, True, False, False, False, False]
    assert max(runner.batches) > 1
    lanes.close()


def test_a_batch_that_does_not_fit_is_tried_frame_by_frame() -> None:
    runner = Adder(1, batch=1)
    lanes = Lanes(runner, Layout(lanes=1, batch=8))
    futures = [lanes.submit(frame(value)) for value in range(40)]
    assert all(future.result(10) >= 0 for future in futures)
    lanes.close()


def test_closing_cancels_what_waits_and_finishes_what_runs() -> None:
    gate, taken = threading.Event(), threading.Event()
    runner = Adder(1)
    original = runner.infer

    def held(frames: Sequence[Frame]) -> None:
        taken.set()
        gate.wait()
        original(frames)

    runner.infer = held  # type: ignore[method-assign]
    lanes = Lanes(runner, Layout())
    futures = [lanes.submit(frame(value)) for value in range(5)]
    assert taken.wait(10)
    threading.Timer(0.1, gate.set).start()
    lanes.close()
    assert futures[0].result(10) >= 0
    assert all(future.cancelled() for future in futures[1:])


def build_in_a_process(folder: str, results: "multiprocessing.Queue[bool]") -> None:
    import os

    os.environ["FOURFOLD_CACHE"] = folder
    from engines.build import build

    results.put(build("openvino", spec_of("xlsr", 4, "yuv420", 64, 48)))


def test_two_processes_that_build_the_same_engine_both_get_it() -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[bool] = context.Queue()
    workers = [context.Process(target=build_in_a_process, args=(str(cache_folder()), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert len([results.get(timeout=120) for _ in workers]) == 2
    for worker in workers:
        worker.join()
    sized = [p for p in (cache_folder() / "engines").glob("*.json") if '"width": 64' in p.read_text()]
    assert len(sized) == 1 and not list(cache_folder().rglob("*.partial"))


def test_a_session_does_not_wait_for_its_size() -> None:
    spec = spec_of("bicubic", 4, "yuv420", 40, 24)
    with LocalEngine("openvino", spec, 2) as engine:
        slot = engine.pool.acquire()
        assert engine.submit(slot).result(60) > 0


def test_threads_that_open_the_same_engine_at_once_all_get_it() -> None:
    spec, failures = spec_of("bicubic", 4, "yuv420", None, None), list[Exception]()

    def opened() -> None:
        try:
            open_runner("openvino", spec).close()
        except Exception as error:
            failures.append(error)

    for _ in range(5):
        threads = [threading.Thread(target=opened) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for path in (cache_folder() / "engines").iterdir():
            path.unlink()
    assert not failures
