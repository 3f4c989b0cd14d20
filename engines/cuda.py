"""The CUDA pipeline: batches go up, through a network and down again on three streams, several of them at once.

Knows nothing of what computes the network; see `Network`. PyTorch is imported only where there is a card to use it on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engines.runner import (
    BackendUnavailableError,
    DeviceMemoryError,
    EngineDeadError,
    EngineError,
    EngineSpec,
    Frame,
    Goal,
    InferenceError,
    Layout,
    Plane,
    Planes,
    plane_shapes,
)

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

LARGEST_SIDE = 16384  # pixels of an input of any size; what a card has memory for ends before

_HOST_REGISTER_PORTABLE = 1  # of cudaHostRegister: locked for every CUDA context
_ALREADY_REGISTERED = 712  # cudaErrorHostMemoryAlreadyRegistered

_capturing = threading.Lock()  # PyTorch allows one capture at a time in a process, and no tidying up beside it


def cuda_layouts(goal: Goal) -> list[Layout]:
    """One lane may copy while another computes, and a third wait for its thread; batches pay where nobody waits for a frame."""
    return [Layout(2), Layout(3)] if goal == "latency" else [Layout(3, batch=4), Layout(3), Layout(2, batch=8)]


class Network(Protocol):
    """What computes the pictures of all lanes."""

    def __call__(self, lane: int, inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        """Enqueues a batch on the current stream and returns at once.

        Args:
            lane: whose batch it is; calls for one lane never overlap.
            inputs: uint8 on the device, contiguous, aligned to 512 bytes: rgb [N, H, W, 3]; or y [N, 1, H, W], u and v
                [N, 1, ceil(H/2), ceil(W/2)].

        Returns:
            uint8 on the device, as the ONNX graph gives it: phases [N, H, W, C], or whole planes. Allocated by PyTorch on the
            current stream, so that memory which is free again is not used before its last use there.

        Raises:
            InferenceError: it could not be enqueued.
        """
        ...


@dataclass(frozen=True)
class _Buffers:
    """Memory on the device for a batch; belongs to the runner."""

    inputs: tuple[Tensor, ...]  # as `Network` takes them
    picture: Tensor  # uint8 [N, bytes]: the output planes of a frame one after the other, as they lie in a slot

    def first(self, count: int) -> _Buffers:
        return _Buffers(tuple(plane[:count] for plane in self.inputs), self.picture[:count])


@dataclass
class _Lane:
    """What one call to `infer` needs for itself."""

    number: int
    uploaded: Any  # events
    computed: Any
    downloaded: Any
    buffers: _Buffers | None = None  # None: of any size, allocated by each call
    graphs: dict[int, Any] = field(default_factory=dict)  # frames of a batch -> CUDA graph


class PageLocks:
    """Memory that this process has page-locked. Locks are the process's, and two runners may share slots: they are counted."""

    def __init__(self) -> None:
        self._users: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()

    def lock(self, memory: Plane, cudart: Any) -> int:
        """Locks `memory` in place; returns the CUDA error code, 0 for none."""
        key = (memory.ctypes.data, memory.nbytes)
        with self._lock:
            code = 0 if key in self._users else int(cudart.cudaHostRegister(*key, _HOST_REGISTER_PORTABLE))
            if code == 0:
                self._users[key] = self._users.get(key, 0) + 1
            return code

    def unlock(self, memory: Plane, cudart: Any) -> None:
        """Takes one lock back; the last one frees the memory."""
        key = (memory.ctypes.data, memory.nbytes)
        with self._lock:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                cudart.cudaHostUnregister(key[0])


PAGE_LOCKS = PageLocks()


class CudaRunner:
    """A network on a card; see `engines.runner.Runner`.

    The three streams are shared by all lanes and each lane has buffers of its own, so the copies of some batches run beside the
    computation of another. Within a lane, events hold the three steps in order. The only thing that a call waits for is its
    last event, asleep and without the GIL; the lane's buffers are free from then on.
    """

    def __init__(
        self,
        network: Network,
        spec: EngineSpec,
        *,
        sides: tuple[int, int] = (1, LARGEST_SIDE),
        graphs: bool = True,
        cuda: Any = None,
        device: str = "cuda",
    ) -> None:
        """Allocates for, and captures, all batch sizes of all lanes if the spec has a size.

        Args:
            network: what computes; it belongs to the runner from here on.
            spec: what it computes.
            sides: input pixels, the shortest and the longest side that the network takes, where the spec has no size.
            graphs: whether each batch is one launch (a CUDA graph) instead of many.
            cuda: `torch.cuda` or what stands for it.
            device: where tensors are allocated.

        Raises:
            BackendUnavailableError: there is no room on the card, or the network does not run there.
        """
        self._cuda = _import_torch().cuda if cuda is None else cuda
        self._network, self._spec, self._sides, self._device = network, spec, sides, device
        self._upload, self._compute, self._download = (self._cuda.Stream() for _ in range(3))
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        self._pinned: list[Plane] = []
        try:
            self._cuda.synchronize()  # weights were put there on another stream
            self._pool = self._cuda.graph_pool_handle()  # one for all graphs: they run one after the other on one stream
            for number in range(spec.layout.lanes):
                self._lanes.put(self._lane(number, graphs))
        except (RuntimeError, InferenceError) as error:
            raise BackendUnavailableError(f"{spec.graphs.title} cannot be set up on the card: {error}") from error

    def infer(self, frames: Sequence[Frame]) -> None:
        """See `engines.runner.Runner.infer`."""
        height, width = self._common_size(frames)
        lane, failure = self._lanes.get(), None
        try:
            self._run(lane, frames, height, width)
        except (RuntimeError, InferenceError) as error:
            failure = self._failure(error, f"{len(frames)} frames of {width}x{height}")
        finally:
            self._lanes.put(lane)
        if failure:  # raised out here, because an error in hand keeps alive what was allocated below
            raise failure

    def pin(self, memory: Plane) -> None:
        """See `engines.runner.Runner.pin`. Memory that cannot be locked is copied from all the same, only slower."""
        code = PAGE_LOCKS.lock(memory, self._cuda.cudart())
        if code == 0:
            self._pinned.append(memory)
            return
        if code != _ALREADY_REGISTERED:  # by someone else, who will unlock it
            log.warning(
                "%d bytes of frames could not be page-locked (CUDA error %d): copies will be slower", memory.nbytes, code
            )
        with suppress(RuntimeError):  # CUDA reports the refusal once more, to whatever is launched next: this
            _import_torch().ones(1, device=self._device)

    def unpin(self, memory: Plane) -> None:
        """See `engines.runner.Runner.unpin`."""
        for number, pinned in enumerate(self._pinned):
            if pinned is memory:
                del self._pinned[number]
                PAGE_LOCKS.unlock(memory, self._cuda.cudart())
                return

    def close(self) -> None:
        """See `engines.runner.Runner.close`."""
        with suppress(RuntimeError):  # a dead card has nothing to wait for
            self._drain()
        while self._pinned:
            PAGE_LOCKS.unlock(self._pinned.pop(), self._cuda.cudart())
        while not self._lanes.empty():
            self._lanes.get()
        del self._network
        with _capturing, suppress(RuntimeError):
            self._cuda.empty_cache()

    def _lane(self, number: int, graphs: bool) -> _Lane:
        lane = _Lane(number, self._cuda.Event(), self._cuda.Event(), self._cuda.Event(blocking=True))
        if self._spec.width and self._spec.height:
            lane.buffers = self._allocate(self._spec.layout.batch, self._spec.height, self._spec.width)
            for count in range(1, self._spec.layout.batch + 1) if graphs else ():
                lane.graphs[count] = self._captured(number, lane.buffers.first(count))
        return lane

    def _allocate(self, count: int, height: int, width: int) -> _Buffers:
        torch, form = _import_torch(), self._spec.form
        lead = (count,) if form == "rgb" else (count, 1)
        shapes = [(*lead, *shape) for shape in plane_shapes(form, height, width)]
        size = sum(map(prod, self._spec.output_planes(height, width)))
        *inputs, picture = (torch.empty(shape, dtype=torch.uint8, device=self._device) for shape in (*shapes, (count, size)))
        return _Buffers(tuple(inputs), picture)

    def _captured(self, lane: int, buffers: _Buffers) -> Any:
        """A batch as a CUDA graph. It runs once before: what libraries do in their first run cannot be captured."""
        with self._cuda.stream(self._compute):
            self._enqueue(lane, buffers)
        self._compute.synchronize()
        graph = self._cuda.CUDAGraph()
        mode = "thread_local"  # other runners may serve meanwhile
        with _capturing, self._cuda.graph(graph, pool=self._pool, stream=self._compute, capture_error_mode=mode):
            self._enqueue(lane, buffers)
        return graph

    def _enqueue(self, lane: int, buffers: _Buffers) -> None:
        """From the inputs to the picture, on the current stream."""
        height, width = buffers.inputs[0].shape[1:3] if self._spec.form == "rgb" else buffers.inputs[0].shape[2:]
        planes = split(buffers.picture, self._spec.output_planes(height, width))
        deliver(self._network(lane, buffers.inputs), planes, self._spec.scale)

    def _run(self, lane: _Lane, frames: Sequence[Frame], height: int, width: int) -> None:
        kept = []  # what the card reads from must stay until it has
        with self._cuda.stream(self._upload):
            buffers = lane.buffers.first(len(frames)) if lane.buffers else self._allocate(len(frames), height, width)
            for number, frame in enumerate(frames):
                for batch, plane in zip(buffers.inputs, frame.inputs, strict=True):
                    source = _from_numpy(np.require(plane, requirements=["C", "W"])).view(batch.shape[1:])
                    kept.append(source)
                    batch[number].copy_(source, non_blocking=True)
            lane.uploaded.record(self._upload)
        with self._cuda.stream(self._compute):
            lane.uploaded.wait(self._compute)
            if graph := lane.graphs.get(len(frames)):
                graph.replay()
            else:
                self._enqueue(lane.number, buffers)
            lane.computed.record(self._compute)
        with self._cuda.stream(self._download):
            lane.computed.wait(self._download)
            for picture, frame in zip(buffers.picture, frames, strict=True):
                start = 0
                for target in in_one_piece(frame.outputs):
                    _from_numpy(target).copy_(picture[start : start + target.size], non_blocking=True)
                    start += target.size
            lane.downloaded.record(self._download)
        lane.downloaded.synchronize()

    def _common_size(self, frames: Sequence[Frame]) -> tuple[int, int]:
        """Height and width of all `frames`.

        Raises:
            InferenceError: they are too many, of several sizes, or of one that this runner does not take.
        """
        spec, limit = self._spec, self._spec.layout.batch
        if not 1 <= len(frames) <= limit:
            raise InferenceError(f"{len(frames)} frames came at once; this engine takes 1 to {limit}")
        height, width = frames[0].inputs[0].shape[:2]
        least, most = self._sides
        if spec.width and spec.height and (width, height) != (spec.width, spec.height):
            raise InferenceError(f"a frame of {width}x{height} came; this engine takes {spec.width}x{spec.height}")
        if not spec.width and not least <= min(width, height) <= max(width, height) <= most:
            raise InferenceError(f"a frame of {width}x{height} came; this engine takes {least}x{least} to {most}x{most}")
        inputs, outputs = plane_shapes(spec.form, height, width), spec.output_planes(height, width)
        for frame in frames:
            shapes = [tuple(plane.shape for plane in planes) for planes in (frame.inputs, frame.outputs)]
            if shapes != [inputs, outputs]:
                raise InferenceError(f"planes of {shapes[0]} and {shapes[1]} came; this batch takes {inputs} and {outputs}")
        return height, width

    def _failure(self, error: Exception, what: str) -> EngineError:
        """What an error means for whoever sent the frames; on return nothing reads or writes them any more."""
        text = str(error)
        try:
            self._drain()
        except RuntimeError as dead:
            return EngineDeadError(f"the card does not answer any more: {dead}")
        if "out of memory" in text:
            return DeviceMemoryError(f"the card has no memory for {what} at once: {text}")
        if "CUDA error" in text:  # such errors stick to the process
            return EngineDeadError(f"the card does not answer any more: {text}")
        return error if isinstance(error, InferenceError) else InferenceError(f"{what} could not be computed: {text}")

    def _drain(self) -> None:
        for stream in (self._upload, self._compute, self._download):
            stream.synchronize()


def split(picture: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """[N, bytes] -> views [N, *shape] of the planes that lie in it one after the other."""
    ends = list(accumulate(prod(shape) for shape in shapes))
    return tuple(picture[:, start:end].view(-1, *shape) for start, end, shape in zip([0, *ends], ends, shapes, strict=False))


def deliver(results: Sequence[Tensor], outputs: tuple[Tensor, ...], scale: int) -> None:
    """As `engines.shuffle.deliver`, for a batch of uint8 tensors on any device and on the current stream.

    Args:
        results: [N, H, W, C] phases; or [N, s * H, s * W, 3], or [N, 1, H', W'] for each plane.
        outputs: the planes to fill, [N, s * H, s * W, 3] or three of [N, H', W'].
        scale: output pixels for one input pixel, in each direction.
    """
    if len(results) == 1 and results[0].shape[1:3] != outputs[0].shape[1:3]:
        shuffle(results[0], outputs, scale)
        return
    for result, plane in zip(results, outputs, strict=True):
        plane.copy_(result.reshape(plane.shape), non_blocking=True)


def shuffle(phases: Tensor, outputs: tuple[Tensor, ...], scale: int) -> None:
    """As `engines.shuffle.shuffle`, for a batch: phases [N, H, W, C] over planes [N, s * H, s * W, 3] or three [N, H', W']."""
    phases = phases.contiguous()  # free where a network computes with channels last
    if len(outputs) == 1:
        _spread(phases, outputs[0], scale)
        return
    chroma = (scale // 2) ** 2
    ends = (scale**2, scale**2 + chroma, scale**2 + 2 * chroma)
    for plane, start, end, factor in zip(outputs, (0, *ends), ends, (scale, scale // 2, scale // 2), strict=False):
        _spread(phases[..., start:end], plane, factor)


def _spread(phases: Tensor, plane: Tensor, factor: int) -> None:
    """[N, H, W, factor * run] -> `plane` of factor * H rows of W * run bytes."""
    torch = _import_torch()
    source = phases.view(*phases.shape[:3], factor, -1).transpose(2, 3)  # [N, H, factor, W, run]
    target = plane.view(source.shape)
    sizes = [source.shape[4], *(size for t in (source, target) for size in (t.storage_offset(), *t.stride()[:-1]))]
    word = next(word for word in (torch.int32, torch.int16, torch.uint8) if not any(size % word.itemsize for size in sizes))
    target.view(word).copy_(source.view(word), non_blocking=True)  # a few wide copies cost less than many narrow ones


def in_one_piece(planes: Planes) -> Planes:
    """The planes flat, as a single array if each begins where the one before it ends, as they do in a slot.

    Raises:
        InferenceError: a plane is not contiguous.
    """
    if not all(plane.flags.c_contiguous for plane in planes):
        raise InferenceError("the planes of a frame must be contiguous in memory")
    flat = tuple(plane.reshape(-1) for plane in planes)
    ends = [plane.ctypes.data + plane.nbytes for plane in flat]
    if any(plane.ctypes.data != end for plane, end in zip(flat[1:], ends, strict=False)):
        return flat
    return (np.lib.stride_tricks.as_strided(flat[0], (sum(plane.size for plane in flat),), writeable=True),)


def _from_numpy(plane: Plane) -> Tensor:
    tensor: Tensor = _import_torch().from_numpy(plane)
    return tensor


def _import_torch() -> Any:
    import torch

    return torch
