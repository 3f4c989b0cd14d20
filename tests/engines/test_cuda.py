"""The CUDA pipeline without a card: on streams that run what was enqueued late and in any order that the events allow."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engines import shuffle as on_cpu
from engines.batching import Lanes
from engines.cuda import (
    CudaRunner,
    Network,
    deliver,
    in_one_piece,
    shuffle,
    split,
)
from engines.runner import (
    BackendUnavailableError,
    EngineDeadError,
    EngineSpec,
    Graphs,
    InferenceError,
    Layout,
    PlaneFrame,
    plane_shapes,
)
from engines.slots import FrameFormat, SlotPool
from models.colour import Colour
from models.registry import Form
from tests.support.cuda import FakeCuda
from tests.support.engines import run, spec_of


def a_spec(form: Form, scale: int, width: int | None, height: int | None, layout: Layout) -> EngineSpec:
    colour = Colour("bt709", "limited") if form == "yuv420" else None
    return EngineSpec(Graphs("a network", scale, form, {}), width, height, colour, "fp16", layout)


def results_of(inputs: Sequence[Tensor], spec: EngineSpec, phases: bool) -> list[Tensor]:
    """What a network of no use gives: every byte depends on its place, its phase and its frame."""
    first = inputs[0] if spec.form == "rgb" else inputs[0][:, 0, :, :, None]
    count, height, width = first.shape[:3]
    if phases:
        channels = (3 if spec.form == "rgb" else 1.5) * spec.scale**2
        return [first[..., :1] * 3 + first.flip(1)[..., :1] + torch.arange(int(channels), dtype=torch.uint8)]
    results = []
    for source, shape in zip(inputs, spec.output_planes(height, width), strict=True):
        lead = (count,) if spec.form == "rgb" else (count, 1)
        rows, columns = torch.arange(shape[0], dtype=torch.uint8), torch.arange(shape[1], dtype=torch.uint8)
        texture = (rows[:, None] * 7 + columns).reshape(*shape[:2], *[1] * (len(shape) - 2))
        results.append(
            texture.expand(*lead, *shape) + source.reshape(count, -1)[:, -1].reshape(count, *[1] * (len(shape) + len(lead) - 1))
        )
    return results


def fake_network(cuda: FakeCuda, spec: EngineSpec, phases: bool) -> Network:
    def network(lane: int, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        shapes = [
            result.shape for result in results_of([torch.zeros(t.shape, dtype=torch.uint8) for t in inputs], spec, phases)
        ]
        outputs = [torch.from_numpy(np.full(shape, 99, np.uint8)) for shape in shapes]

        def compute() -> None:
            for output, result in zip(outputs, results_of(inputs, spec, phases), strict=True):
                output.copy_(result)

        cuda.enqueue(compute)
        return outputs

    def guarded(lane: int, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        with torch.utils._python_dispatch._disable_current_modes():
            return network(lane, inputs)

    return guarded


def random_frame(spec: EngineSpec, height: int, width: int, random_: np.random.Generator) -> PlaneFrame:
    inputs = tuple(random_.integers(0, 256, shape, dtype=np.uint8) for shape in plane_shapes(spec.form, height, width))
    return PlaneFrame(inputs, tuple(np.zeros(shape, np.uint8) for shape in spec.output_planes(height, width)))


def expected(frame: PlaneFrame, spec: EngineSpec, phases: bool) -> tuple[Any, ...]:
    """What the CPU makes of the same network."""
    lead = (None,) if spec.form == "rgb" else (None, None)
    results = results_of([torch.from_numpy(plane[lead]) for plane in frame.inputs], spec, phases)
    outputs = tuple(np.zeros_like(plane) for plane in frame.outputs)
    on_cpu.deliver([np.ascontiguousarray(result.numpy()) for result in results], outputs, spec.scale)
    return outputs


def is_right(frame: PlaneFrame, spec: EngineSpec, phases: bool) -> bool:
    return all(np.array_equal(*planes) for planes in zip(frame.outputs, expected(frame, spec, phases), strict=True))


def serve(cuda: FakeCuda, spec: EngineSpec, phases: bool, graphs: bool, rounds: int = 3, seed: int = 0) -> list[bool]:
    """Frames from as many threads as there are lanes; whether each came out right."""
    runner = CudaRunner(fake_network(cuda, spec, phases), spec, graphs=graphs, cuda=cuda, device="cpu")
    cuda.serving, verdicts = True, list[bool]()

    def client(number: int) -> None:
        random_ = np.random.default_rng((seed, number))
        for _ in range(rounds):
            height, width = spec.height or int(random_.integers(1, 9)), spec.width or int(random_.integers(1, 9))
            count = int(random_.integers(1, spec.layout.batch + 1))
            frames = [random_frame(spec, height, width, random_) for _ in range(count)]
            runner.infer(frames)
            verdicts.extend(is_right(frame, spec, phases) for frame in frames)

    with ThreadPoolExecutor(spec.layout.lanes) as threads:
        list(threads.map(client, range(spec.layout.lanes)))
    cuda.serving = False
    runner.close()
    return verdicts


CASES = [("yuv420", 4, True), ("yuv420", 2, True), ("yuv420", 3, False), ("rgb", 4, True), ("rgb", 3, True), ("rgb", 2, False)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize(("form", "scale", "phases"), CASES)
def test_every_frame_is_right_in_any_order_that_events_allow(
    form: Form, scale: int, phases: bool, graphs: bool, seed: int
) -> None:
    cuda = FakeCuda(seed, waiters=3)
    spec = a_spec(form, scale, 7, 5, Layout(3, batch=2))
    verdicts = serve(cuda, spec, phases, graphs, seed=seed)
    assert len(verdicts) >= 9
    assert all(verdicts)
    assert cuda.waits == 9  # one for each call
    assert cuda.replays == (9 if graphs else 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("form", "scale", "phases"), CASES)
def test_any_size_is_served_with_buffers_of_its_own(form: Form, scale: int, phases: bool, seed: int) -> None:
    cuda = FakeCuda(seed, waiters=3)
    assert all(serve(cuda, a_spec(form, scale, None, None, Layout(3, batch=2)), phases, graphs=True, seed=seed))
    assert cuda.replays == 0


@pytest.mark.parametrize("stream", [1, 2])  # compute, download
def test_the_fake_notices_a_missing_wait(stream: int) -> None:
    spec = a_spec("yuv420", 4, 7, 5, Layout(3, batch=2))
    verdicts = [serve(FakeCuda(seed, 3, deaf=stream), spec, True, True, seed=seed) for seed in range(4)]
    assert not all(map(all, verdicts))


def test_frames_in_slots_come_down_in_one_copy() -> None:
    cuda, spec = FakeCuda(), a_spec("yuv420", 4, 8, 6, Layout())
    pool, random_ = SlotPool(FrameFormat.of(spec), 2), np.random.default_rng(0)
    runner = CudaRunner(fake_network(cuda, spec, True), spec, cuda=cuda, device="cpu")
    runner.pin(pool.memory)
    for slot in pool.slots:
        assert len(in_one_piece(slot.outputs)) == 1
        for plane in slot.inputs:
            plane[...] = random_.integers(0, 256, plane.shape)
        frame = PlaneFrame(slot.inputs, slot.outputs)
        runner.infer([frame])
        assert is_right(frame, spec, True)
    runner.close()
    assert cuda.registered == []
    pool.close()


def test_planes_that_lie_apart_stay_apart() -> None:
    memory = np.zeros(40, np.uint8)
    assert [plane.size for plane in in_one_piece((memory[:8].reshape(2, 4), memory[8:12], memory[12:16]))] == [16]
    assert [plane.size for plane in in_one_piece((memory[:8].reshape(2, 4), memory[8:12], memory[13:16]))] == [8, 4, 3]


def test_planes_with_gaps_are_refused() -> None:
    cuda, spec = FakeCuda(), a_spec("rgb", 2, 4, 4, Layout())
    runner = CudaRunner(fake_network(cuda, spec, True), spec, cuda=cuda, device="cpu")
    frame = random_frame(spec, 4, 4, np.random.default_rng(0))
    with pytest.raises(InferenceError, match="contiguous"):
        runner.infer([PlaneFrame(frame.inputs, (np.zeros((8, 8, 6), np.uint8)[:, :, ::2],))])
    runner.infer([frame])
    assert is_right(frame, spec, True)


def test_frames_that_cannot_be_written_to_are_read() -> None:
    cuda, spec = FakeCuda(), a_spec("rgb", 2, 4, 4, Layout())
    runner = CudaRunner(fake_network(cuda, spec, True), spec, cuda=cuda, device="cpu")
    frame = random_frame(spec, 4, 4, np.random.default_rng(0))
    frame.inputs[0].setflags(write=False)
    runner.infer([frame])
    frame.inputs[0].setflags(write=True)
    assert is_right(frame, spec, True)


def test_two_runners_lock_the_same_memory_once(caplog: pytest.LogCaptureFixture) -> None:
    cuda, spec, memory = FakeCuda(), a_spec("rgb", 2, 4, 4, Layout()), np.zeros(64, np.uint8)
    first, second = (CudaRunner(fake_network(cuda, spec, True), spec, cuda=cuda, device="cpu") for _ in range(2))
    first.pin(memory)
    second.pin(memory)
    first.close()
    assert cuda.registered == [memory.ctypes.data]
    second.close()
    assert cuda.registered == []


def test_memory_that_cannot_be_locked_is_used_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    cuda, spec = FakeCuda(), a_spec("rgb", 2, 4, 4, Layout())
    cuda.refusal = 2
    runner = CudaRunner(fake_network(cuda, spec, True), spec, cuda=cuda, device="cpu")
    with caplog.at_level(logging.WARNING):
        runner.pin(np.zeros(64, np.uint8))
    assert "64 bytes of frames could not be page-locked (CUDA error 2)" in caplog.text
    frame = random_frame(spec, 4, 4, np.random.default_rng(0))
    runner.infer([frame])
    assert is_right(frame, spec, True)
    runner.close()


def failing(error: Exception, more_than: int = 0) -> Callable[[FakeCuda, EngineSpec], Network]:
    """A network that raises `error` for batches of more than so many frames."""

    def make(cuda: FakeCuda, spec: EngineSpec) -> Network:
        works = fake_network(cuda, spec, True)

        def network(lane: int, inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
            if len(inputs[0]) > more_than:
                raise error
            return works(lane, inputs)

        return network

    return make


@pytest.mark.parametrize(
    ("error", "becomes", "says"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            InferenceError,
            "no memory for 2 frames of 4x4",
        ),
        (torch.AcceleratorError("CUDA error: an illegal memory access", 700), EngineDeadError, "does not answer any more"),
        (RuntimeError("CUDA error: unspecified launch failure"), EngineDeadError, "does not answer any more"),
        (RuntimeError("cuDNN has no kernel"), InferenceError, "2 frames of 4x4 could not be computed: cuDNN has no kernel"),
        (InferenceError("TensorRT could not enqueue"), InferenceError, "TensorRT could not enqueue"),
    ],
)
def test_errors_are_told_apart(error: Exception, becomes: type[Exception], says: str) -> None:
    cuda, spec = FakeCuda(), a_spec("rgb", 2, 4, 4, Layout(batch=2))
    runner = CudaRunner(failing(error, 1)(cuda, spec), spec, graphs=False, cuda=cuda, device="cpu")
    frames = [random_frame(spec, 4, 4, np.random.default_rng(0)) for _ in range(2)]
    with pytest.raises(becomes, match=says) as raised:
        runner.infer(frames)
    assert raised.value.__context__ is None or isinstance(error, InferenceError)  # it would keep the memory
    assert not any(stream.steps for stream in cuda.streams)
    runner.infer(frames[:1])
    assert is_right(frames[0], spec, True)


def test_batches_without_memory_are_tried_frame_by_frame() -> None:
    cuda, spec = FakeCuda(), a_spec("rgb", 2, 4, 4, Layout(batch=4))
    network = failing(torch.OutOfMemoryError("CUDA out of memory"), 1)(cuda, spec)
    runner = CudaRunner(network, spec, graphs=False, cuda=cuda, device="cpu")
    lanes, random_ = Lanes(runner, spec.layout), np.random.default_rng(0)
    frames = [random_frame(spec, 4, 4, random_) for _ in range(6)]
    for future in [lanes.submit(frame) for frame in frames]:
        future.result(30)
    lanes.close()
    assert all(is_right(frame, spec, True) for frame in frames)


def test_a_card_without_room_is_an_error_at_the_start() -> None:
    cuda, spec = FakeCuda(), a_spec("rgb", 2, 4, 4, Layout())
    network = failing(torch.OutOfMemoryError("CUDA out of memory"))(cuda, spec)
    with pytest.raises(BackendUnavailableError, match="a network cannot be set up on the card: CUDA out of memory"):
        CudaRunner(network, spec, cuda=cuda, device="cpu")


@pytest.mark.parametrize(
    ("spec", "height", "width", "count", "says"),
    [
        (a_spec("rgb", 2, 6, 4, Layout(batch=2)), 4, 5, 1, "a frame of 5x4 came; this engine takes 6x4"),
        (a_spec("rgb", 2, None, None, Layout(batch=2)), 4, 33, 1, "a frame of 33x4 came; this engine takes 2x2 to 32x32"),
        (a_spec("rgb", 2, None, None, Layout(batch=2)), 1, 5, 1, "a frame of 5x1 came"),
        (a_spec("yuv420", 2, 6, 4, Layout(batch=2)), 4, 6, 3, "3 frames came at once; this engine takes 1 to 2"),
    ],
)
def test_frames_that_do_not_fit_are_refused(spec: EngineSpec, height: int, width: int, count: int, says: str) -> None:
    cuda = FakeCuda()
    runner = CudaRunner(fake_network(cuda, spec, True), spec, sides=(2, 32), cuda=cuda, device="cpu")
    with pytest.raises(InferenceError, match=says):
        runner.infer([random_frame(spec, height, width, np.random.default_rng(0))] * count)


def test_a_batch_of_two_sizes_is_refused() -> None:
    cuda, spec, random_ = FakeCuda(), a_spec("yuv420", 2, None, None, Layout(batch=2)), np.random.default_rng(0)
    runner = CudaRunner(fake_network(cuda, spec, True), spec, cuda=cuda, device="cpu")
    with pytest.raises(InferenceError, match="this batch takes"):
        runner.infer([random_frame(spec, 4, 4, random_), random_frame(spec, 4, 6, random_)])


@pytest.mark.parametrize(("form", "scale"), [("rgb", 2), ("rgb", 3), ("rgb", 4), ("yuv420", 2), ("yuv420", 4)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (6, 8)])
def test_shuffle_equals_that_of_the_cpu(form: Form, scale: int, height: int, width: int) -> None:
    channels = 3 * scale**2 if form == "rgb" else scale**2 + 2 * (scale // 2) ** 2
    phases = np.random.default_rng(3).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    shapes = a_spec(form, scale, None, None, Layout()).output_planes(height, width)
    picture = torch.zeros(2, sum(int(np.prod(shape)) for shape in shapes), dtype=torch.uint8)
    planes = split(picture, shapes)
    shuffle(torch.from_numpy(phases), planes, scale)
    for number in range(2):
        right = tuple(np.zeros(shape, np.uint8) for shape in shapes)
        on_cpu.shuffle(phases[number], right, scale)
        assert all(np.array_equal(ours[number].numpy(), theirs) for ours, theirs in zip(planes, right, strict=True))
        assert np.array_equal(picture[number].numpy(), np.concatenate([plane.ravel() for plane in right]))


def test_a_result_of_the_wrong_size_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        deliver(
            [torch.zeros(1, 1, 4, 6, dtype=torch.uint8)] * 3,
            tuple(torch.zeros(1, 4, 4, dtype=torch.uint8) for _ in range(3)),
            2,
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA card here")
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("form", ["rgb", "yuv420"])
def test_on_a_card(form: Form, graphs: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several lanes of the shipped network, in page-locked slots, against the CPU."""
    from dataclasses import replace

    from engines.backends.torch import TorchBackend

    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path))
    spec = replace(spec_of("xlsr", 4, form, 96, 64), layout=Layout(3, batch=2))
    backend = TorchBackend(graphs=graphs)
    runner, pool, random_ = (
        backend.load(backend.build(spec), spec),
        SlotPool(FrameFormat.of(spec), 12),
        np.random.default_rng(0),
    )
    runner.pin(pool.memory)
    for slot in pool.slots:
        for plane in slot.inputs:
            plane[...] = random_.integers(0, 256, plane.shape)
    lanes = Lanes(runner, spec.layout)
    for _ in range(3):
        for future in [lanes.submit(slot) for slot in pool.slots]:
            future.result(60)
    lanes.close()
    for slot in pool.slots:
        right = run("openvino", replace(spec, layout=Layout()), slot.inputs)
        assert all(np.abs(ours.astype(int) - theirs).max() <= 1 for ours, theirs in zip(slot.outputs, right, strict=True))
    runner.close()
