"""TensorRT: the fastest backend of NVIDIA's cards. TensorRT and TensorRT-RTX share an API; either one will do."""

import hashlib
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.cache import cache_folder, replace_file
from engines.card import Card, describe_device, require_cuda
from engines.cuda import CudaRunner, cuda_layouts
from engines.runner import (
    INPUTS,
    BackendUnavailableError,
    EngineSpec,
    Goal,
    InferenceError,
    Layout,
    Precision,
    plane_shapes,
)

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

LEAST_SIDE, LARGEST_SIDE = 16, 4096  # input pixels of an engine for any size
TYPICAL_SIZE = (270, 480)  # lines and pixels a line that an engine for any size is tuned for

_EXTERNAL = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
"""The key that every tensor with its data in another file has, in any spelling that Protocol Buffers allow."""


@dataclass(frozen=True)
class Library:
    """One of the two libraries, imported."""

    module: Any
    title: str
    caches_timing: bool  # TensorRT-RTX measures nothing while it builds, so it has nothing to remember


def find_library() -> Library:
    """TensorRT, or TensorRT-RTX where there is only that.

    Raises:
        BackendUnavailableError: neither can be loaded.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        first = error
    else:
        return Library(tensorrt, "TensorRT", caches_timing=True)
    try:
        import tensorrt_rtx_bindings
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(
            f"TensorRT cannot be loaded ({first}; {error}); pip install 'fourfold[gpu]', "
            "or tensorrt-rtx-cu13-bindings and tensorrt-rtx-cu13-libs"
        ) from error
    return Library(tensorrt_rtx_bindings, "TensorRT-RTX", caches_timing=False)


class TensorRTBackend:
    """Compiles graphs as they are typed; nothing but `load` and `precisions` needs a card."""

    def __init__(
        self,
        name: str = "tensorrt",
        find: Callable[[], Library] = find_library,
        card: Callable[[], Card] = require_cuda,
        graphs: bool = True,
    ) -> None:
        """Args:
        name: what it is called.
        find: imports the library, when it is first needed.
        card: makes sure that there is a card.
        graphs: whether runners launch a batch as one CUDA graph.
        """
        self.name, self._find, self._card, self._graphs = name, find, card, graphs
        self._found: tuple[Library, Any] | None = None

    def version(self) -> str:
        library, _ = self._library()
        return f"{library.module.__version__} ({library.title})"

    def device(self) -> str:
        return describe_device()

    def precisions(self) -> dict[Precision, str]:
        self._card()
        where = "where the model has such a graph"
        return {"fp16": "NVIDIA's tensor cores multiply it natively", "int8": where, "fp32": "every card can"}

    def layouts(self, goal: Goal, cores: int) -> list[Layout]:
        return cuda_layouts(goal)

    def build(self, spec: EngineSpec) -> bytes:
        library, logger = self._library()
        trt = library.module
        logger.errors.clear()
        builder = _made(trt.Builder, logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(library, network, logger, spec)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # FP32 is FP32, also where colours are converted
        if spec.width and hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # TensorRT-RTX asks for it where graphs are captured
        config.add_optimization_profile(_profile(builder, network, spec))
        timing = _TimingCache(self._timing_path()) if library.caches_timing else None
        if timing:
            timing.attach(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BackendUnavailableError(f"{library.title} cannot compile {spec.onnx.name}: {logger.last()}")
        if timing:
            timing.keep(config)
        return bytes(plan)

    def load(self, compiled: bytes, spec: EngineSpec) -> CudaRunner:
        card, (library, logger) = self._card(), self._library()
        logger.errors.clear()
        engine = _made(library.module.Runtime, logger).deserialize_cuda_engine(compiled)
        if engine is None:
            raise BackendUnavailableError(f"{self.version()} cannot load {spec.graphs.title} on {card}: {logger.last()}")
        network = TensorRTNetwork(library, engine, logger, spec)
        return CudaRunner(network, spec, sides=(LEAST_SIDE, LARGEST_SIDE), graphs=self._graphs)

    def _library(self) -> tuple[Library, Any]:
        """The library, imported at first use, and its logger."""
        if self._found is None:
            library = self._find()
            self._found = library, _logger(library.module.ILogger)
        return self._found

    def _timing_path(self) -> Path:
        key = hashlib.sha256(f"{self.name} {self.version()} {self.device()}".encode()).hexdigest()[:32]
        return cache_folder() / "timing" / f"{key}.cache"


BACKEND = TensorRTBackend()


class TensorRTNetwork:
    """A deserialised engine with an execution context for each lane; see `engines.cuda.Network`.

    All memory that it works in is PyTorch's. Lanes compute one after the other on one stream, so they share it; and a context
    may be captured for several batch sizes only if it has no memory of its own.
    """

    def __init__(
        self, library: Library, engine: Any, logger: Any, spec: EngineSpec, cuda: Any = None, device: str = "cuda"
    ) -> None:
        """Args:
        library: what `engine` belongs to.
        engine: what `deserialize_cuda_engine` gave.
        logger: knows why something failed.
        spec: what the engine was built for.
        cuda: `torch.cuda` or what stands for it.
        device: where tensors are allocated.

        Raises:
            BackendUnavailableError: there is no memory for the contexts.
        """
        import torch

        self._cuda = torch.cuda if cuda is None else cuda
        self._engine, self._logger, self._form, self._device = engine, logger, spec.form, device
        modes = {name: engine.get_tensor_mode(name) for name in map(engine.get_tensor_name, range(engine.num_io_tensors))}
        self._outputs = [name for name, mode in modes.items() if mode == library.module.TensorIOMode.OUTPUT]
        colour = {"yuv_to_rgb": spec.colour.yuv_to_rgb(), "rgb_to_yuv": spec.colour.rgb_to_yuv()} if spec.colour else {}
        self._colour = {name: torch.from_numpy(values).to(device) for name, values in colour.items()}
        self._contexts = [_context(library.module, engine, bool(spec.width)) for _ in range(spec.layout.lanes)]
        if None in self._contexts:
            raise BackendUnavailableError(f"{library.title} cannot run {spec.graphs.title}: {logger.last()}")

    def __call__(self, lane: int, inputs: "tuple[Tensor, ...]") -> "Sequence[Tensor]":
        """See `engines.cuda.Network`."""
        context, feed = self._contexts[lane], dict(zip(INPUTS[self._form], inputs, strict=True)) | self._colour
        for name, tensor in feed.items():
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        results = {name: self._empty(tuple(context.get_tensor_shape(name))) for name in self._outputs}
        for name, tensor in results.items():
            context.set_tensor_address(name, tensor.data_ptr())
        workspace = self._empty((max(1, context.update_device_memory_size_for_shapes()),))
        context.set_device_memory(workspace.data_ptr(), workspace.numel())
        if not context.execute_async_v3(self._cuda.current_stream().cuda_stream):
            raise InferenceError(f"TensorRT could not enqueue a batch: {self._logger.last()}")
        return list(results.values())

    def _empty(self, shape: tuple[int, ...]) -> "Tensor":
        import torch

        return torch.empty(shape, dtype=torch.uint8, device=self._device)


class _TimingCache:
    """How fast the kernels were that earlier builds tried, in a file with its checksum: a damaged one is as good as none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def attach(self, config: Any) -> None:
        config.set_timing_cache(config.create_timing_cache(self._read()), False)

    def keep(self, config: Any) -> None:
        content = bytes(config.get_timing_cache().serialize())
        try:
            replace_file(self._path, hashlib.sha256(content).digest() + content)
        except OSError as error:
            log.warning("TensorRT's timings could not be kept in %s: %s", self._path.parent, error.strerror)

    def _read(self) -> bytes:
        try:
            stored = self._path.read_bytes()
        except OSError:
            return b""
        digest, content = stored[:32], stored[32:]
        return content if hashlib.sha256(content).digest() == digest else b""


def _parse(library: Library, network: Any, logger: Any, spec: EngineSpec) -> None:
    """Fills `network` from the spec's ONNX file, which must hold all its weights itself.

    Raises:
        BackendUnavailableError: it does not, or something in it is unknown to TensorRT.
    """
    graph = spec.onnx.read_bytes()
    if _EXTERNAL.search(graph):
        raise BackendUnavailableError(
            f"{spec.onnx.name} keeps weights in another file, which could be any file; export it with all data inside"
        )
    parser = library.module.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        what = "; ".join(f"node {e.node_name() or e.node()} ({e.node_operator() or '?'}): {e.desc()}" for e in errors)
        raise BackendUnavailableError(f"{library.title} cannot compile {spec.onnx.name}: {what or logger.last()}")


def _profile(builder: Any, network: Any, spec: EngineSpec) -> Any:
    """What batches and sizes come: those of the spec, or any."""
    low, usual, high = (
        [(spec.height, spec.width)] * 3
        if spec.height and spec.width
        else [(LEAST_SIDE, LEAST_SIDE), TYPICAL_SIZE, (LARGEST_SIDE, LARGEST_SIDE)]
    )
    profile, batch = builder.create_optimization_profile(), spec.layout.batch
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.name in INPUTS[spec.form]:
            shapes = [_shape(tensor.name, spec, count, *size) for count, size in ((1, low), (batch, usual), (batch, high))]
            profile.set_shape(tensor.name, *shapes)
    return profile


def _shape(name: str, spec: EngineSpec, count: int, height: int, width: int) -> tuple[int, ...]:
    plane = dict(zip(INPUTS[spec.form], plane_shapes(spec.form, height, width), strict=True))[name]
    return (count, *plane) if spec.form == "rgb" else (count, 1, *plane)


def _context(trt: Any, engine: Any, fixed: bool) -> Any:
    """An execution context that works in the caller's memory."""
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    kernels = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if kernels is None or not fixed:
        return engine.create_execution_context(strategy)
    config = engine.create_runtime_config()  # TensorRT-RTX: a captured graph would keep the makeshift kernels of the first run
    config.set_execution_context_allocation_strategy(strategy)
    config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
    return engine.create_execution_context(config)


def _made(kind: Callable[[Any], Any], logger: Any) -> Any:
    """A builder or a runtime.

    Raises:
        BackendUnavailableError: it cannot be made; TensorRT (not -RTX) needs a driver for that.
    """
    try:
        return kind(logger)
    except (TypeError, RuntimeError) as error:
        raise BackendUnavailableError(f"TensorRT cannot start: {logger.last() or error}") from error


@cache
def _logger(base: Any) -> Any:
    """One for each library's ILogger: a library takes one for the whole process and ignores all later ones."""
    severity = base.Severity

    class Recorder(base):  # type: ignore[misc]
        """Keeps the last errors: TensorRT's functions give back None and say elsewhere why."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=4)

        def log(self, level: Any, text: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(text.strip())
            elif level == severity.WARNING:
                log.debug("TensorRT: %s", text.strip())

        def last(self) -> str:
            return " / ".join(self.errors)

    return Recorder()
