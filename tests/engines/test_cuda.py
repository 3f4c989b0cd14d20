"""The CUDA pipeline without a card: on streams that run what was enqueued late and in any order that the events allow."""

import ctypes
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engines import shuffle as on_cpu
from engines.batching import Lanes
from engines.cuda import (
    NO_DEVICE,
    Card,
    CudaRunner,
    Network,
    deliver,
    describe_device,
    find_card,
    in_one_piece,
    require_cuda,
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
from engines.slots import SlotPool
from models.colour import Colour
from models.registry import Form
from tests.support.engines import run, spec_of

CARD = Card("NVIDIA H200", (9, 0), (13, 0))


class FakeCuda:
    """Stands for `torch.cuda`: nothing runs before the host waits; then steps are taken from random streams, as events allow.

    Copies between tensors and what is given to `enqueue` go to the current stream; so may nothing else that computes.
    """

    def __init__(self, seed: int = 0, waiters: int = 1, deaf: int | None = None) -> None:
        """Args:
        seed: of the order.
        waiters: threads that must wait at once before anything runs, so that many batches are in flight.
        deaf: number of a stream that does not wait for events.
        """
        self.random, self.deaf = random.Random(seed), deaf
        self.lock, self.barrier, self.local = threading.RLock(), threading.Barrier(waiters, timeout=30), threading.local()
        self.streams: list[FakeStream] = []
        self.serving = False  # from here on only events may be waited for
        self.waits = self.replays = 0
        self.registered: list[int] = []
        self.refusal = 0

    def Stream(self) -> "FakeStream":  # noqa: N802
        self.streams.append(FakeStream(self))
        return self.streams[-1]

    def Event(self, blocking: bool = False) -> "FakeEvent":  # noqa: N802
        return FakeEvent(self, blocking)

    def CUDAGraph(self) -> "FakeGraph":  # noqa: N802
        return FakeGraph(self)

    def graph_pool_handle(self) -> object:
        return object()

    def empty_cache(self) -> None:
        pass

    def current_stream(self) -> "FakeStream":
        stream: FakeStream = self.local.stream
        return stream

    @contextmanager
    def stream(self, stream: "FakeStream") -> Iterator[None]:
        with Deferring(self):
            self.local.stream = stream
            yield
            del self.local.stream

    @contextmanager
    def graph(self, graph: "FakeGraph", pool: object, stream: "FakeStream", capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        with self.stream(stream):
            self.local.capture = graph
            yield
            del self.local.capture

    def cudart(self) -> Any:
        return SimpleNamespace(cudaHostRegister=self._register, cudaHostUnregister=self.registered.remove)

    def _register(self, address: int, size: int, flags: int) -> int:
        if not self.refusal:
            self.registered.append(address)
        return self.refusal

    def enqueue(self, work: Callable[[], object]) -> None:
        capture = getattr(self.local, "capture", None)
        with self.lock:
            (capture.steps if capture else self.current_stream().steps).append((None, work))

    def run_until(self, finished: Callable[[], bool]) -> None:
        """Takes steps in a random order until `finished`."""
        with self.lock:
            while not finished():
                ready = [s for s in self.streams if s.steps and (s.steps[0][0] is None or s.steps[0][0].done)]
                assert ready, "every stream waits for another"
                self.random.choice(ready).steps.popleft()[1]()


class Deferring(TorchDispatchMode):
    """Sends copies to the current stream."""

    VIEWS = ("view", "slice", "select", "transpose", "empty", "detach", "alias", "unbind", "lift_fresh")

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self.cuda = cuda

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name == "copy_":
            self.cuda.enqueue(lambda: func(*args))
            return args[0]
        assert name in self.VIEWS, f"{name} is computed at once"
        return func(*args, **(kwargs or {}))


class Marker:
    done = False

    def set(self) -> None:
        self.done = True


class FakeStream:
    """A queue of steps, each with a marker that must be done before it."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.steps = cuda, deque[tuple[Marker | None, Callable[[], object]]]()

    def synchronize(self) -> None:
        assert not self.cuda.serving, "a stream was waited for"
        self.cuda.run_until(lambda: not self.steps)


class FakeEvent:
    def __init__(self, cuda: FakeCuda, blocking: bool) -> None:
        self.cuda, self.blocking, self.marker = cuda, blocking, Marker()

    def record(self, stream: FakeStream) -> None:
        with self.cuda.lock:
            self.marker = Marker()
            stream.steps.append((None, self.marker.set))

    def wait(self, stream: FakeStream) -> None:
        with self.cuda.lock:
            heeded = self.cuda.deaf is None or stream is not self.cuda.streams[self.cuda.deaf]
            stream.steps.append((self.marker if heeded else None, lambda: None))

    def synchronize(self) -> None:
        assert self.blocking, "the thread would spin"
        self.cuda.waits += 1
        self.cuda.barrier.wait()
        self.cuda.run_until(lambda: self.marker.done)


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.steps = cuda, list[tuple[Marker | None, Callable[[], object]]]()

    def replay(self) -> None:
        assert self.steps
        with self.cuda.lock:
            self.cuda.replays += 1
            self.cuda.current_stream().steps.extend(self.steps)


class EagerCuda(FakeCuda):
    """Everything runs at once, for networks that really compute."""

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        yield  # copies and all else are computed at once

    def current_stream(self) -> Any:
        return SimpleNamespace(cuda_stream=7)


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
    pool, random_ = SlotPool(spec, 2), np.random.default_rng(0)
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


class FakeDriver:
    """Stands for libcuda."""

    def __init__(self, fails: dict[str, int] | None = None) -> None:
        self.fails = fails or {}

    def __getattr__(self, function: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if function == "cuGetErrorString":
                arguments[1]._obj.value = b"no CUDA-capable device is detected"
            elif function == "cuDeviceGetName":
                arguments[0].value = b"NVIDIA H200"
            elif function == "cuDriverGetVersion":
                arguments[0]._obj.value = 12080
            elif function == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 9, 76: 0}[arguments[1]]
            return self.fails.get(function, 0)

        return call


def no_driver(name: str) -> Any:
    return ctypes.CDLL(f"{name}.of.a.machine.without.it")


def test_the_driver_says_what_card_there_is() -> None:
    card = find_card(lambda name: FakeDriver())
    assert card == Card("NVIDIA H200", (9, 0), (12, 8))
    assert str(card) == "NVIDIA H200, compute capability 9.0, driver for CUDA 12.8"


def test_no_driver_and_no_card_are_told_apart() -> None:
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver on this machine"):
        find_card(no_driver)
    with pytest.raises(BackendUnavailableError, match=r"no CUDA-capable device is detected \(cuInit, error 100\)"):
        find_card(lambda name: FakeDriver({"cuInit": 100}))
    assert describe_device(lambda: find_card(no_driver)) == NO_DEVICE


def fake_torch(cuda: str | None, init: Exception | None = None) -> Any:
    def initialise() -> None:
        if init:
            raise init

    return SimpleNamespace(__version__="2.13.0", version=SimpleNamespace(cuda=cuda), cuda=SimpleNamespace(init=initialise))


@pytest.mark.parametrize(
    ("torch_", "says"),
    [
        (fake_torch(None), r"PyTorch 2.13.0 was built without CUDA"),
        (fake_torch("14.1"), r"driver is too old: it supports CUDA 13.0, PyTorch 2.13.0 needs 14.1"),
        (fake_torch("13.2", RuntimeError("busy")), "PyTorch 2.13.0 cannot use NVIDIA H200: busy"),
    ],
)
def test_why_pytorch_cannot_use_the_card(torch_: Any, says: str) -> None:
    with pytest.raises(BackendUnavailableError, match=says):
        require_cuda(lambda: CARD, lambda: torch_)


def test_a_card_that_pytorch_can_use() -> None:
    assert require_cuda(lambda: CARD, lambda: fake_torch("13.2")) is CARD

    def missing() -> Any:
        raise ImportError("No module named 'torch'")

    with pytest.raises(BackendUnavailableError, match=r"No module named 'torch'.*fourfold\[gpu\]"):
        require_cuda(lambda: CARD, missing)


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
    runner, pool, random_ = backend.load(backend.build(spec), spec), SlotPool(spec, 12), np.random.default_rng(0)
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
