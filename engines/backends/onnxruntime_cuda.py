"""ONNX Runtime on an NVIDIA card, by its CUDA provider: the second opinion there, and the peer that others are measured by."""

from collections.abc import Callable, Sequence
from typing import Any

from engines.backends.onnxruntime import OnnxRuntimeRunner
from engines.card import Card, describe_device, find_card
from engines.runner import (
    BackendUnavailableError,
    EngineDeadError,
    EngineSpec,
    Frame,
    Goal,
    InferenceError,
    Layout,
    Precision,
)

PROVIDER = "CUDAExecutionProvider"


def import_library() -> Any:
    """ONNX Runtime, of whichever build."""
    import onnxruntime

    return onnxruntime


class OnnxRuntimeCudaBackend:
    """Sessions on the CUDA provider and on nothing else: ONNX Runtime itself would go on without a word on the CPU."""

    name = "onnxruntime-cuda"

    def __init__(self, load: Callable[[], Any] = import_library, card: Callable[[], Card] = find_card) -> None:
        """Args:
        load: imports onnxruntime.
        card: makes sure that there is a card.
        """
        self._load, self._card = load, card

    def version(self) -> str:
        version: str = self._onnxruntime().__version__
        return version

    def device(self) -> str:
        return describe_device()

    def precisions(self) -> dict[Precision, str]:
        self._card()
        return {"fp16": "NVIDIA's tensor cores multiply it natively", "fp32": "every card can"}

    def layouts(self, goal: Goal, cores: int) -> list[Layout]:
        return [Layout(1), Layout(2)]  # frames go one by one; a second lane delivers while the first computes

    def build(self, spec: EngineSpec) -> bytes:
        return spec.onnx.read_bytes()

    def load(self, compiled: bytes, spec: EngineSpec) -> "OnnxRuntimeCudaRunner":
        card, library = self._card(), self._onnxruntime()
        library.preload_dlls()  # CUDA and cuDNN lie in packages of their own
        options = library.SessionOptions()
        options.log_severity_level = 3
        search = "EXHAUSTIVE" if spec.width else "HEURISTIC"  # trying all kernels pays where one size is all that comes
        provider = (PROVIDER, {"cudnn_conv_algo_search": search, "use_tf32": "0"})  # FP32 is FP32
        try:
            session = library.InferenceSession(compiled, options, providers=[provider])
        except Exception as error:  # ONNX Runtime raises its own, unrelated exception types
            raise BackendUnavailableError(f"ONNX Runtime cannot run {spec.graphs.title} on {card.name}: {error}") from error
        if session.get_providers()[:1] != [PROVIDER]:
            raise BackendUnavailableError(
                f"ONNX Runtime {library.__version__} cannot start its CUDA provider on {card} and fell back to "
                f"{', '.join(session.get_providers())}; its CUDA and cuDNN libraries are missing"
            )
        return OnnxRuntimeCudaRunner(session, spec)

    def _onnxruntime(self) -> Any:
        try:
            library = self._load()
        except ImportError as error:
            raise BackendUnavailableError(f"ONNX Runtime cannot be loaded ({error}); pip install 'fourfold[gpu]'") from error
        if PROVIDER not in library.get_available_providers():
            raise BackendUnavailableError(
                f"ONNX Runtime {library.__version__} is the CPU build; pip uninstall onnxruntime, "
                "then pip install --force-reinstall onnxruntime-gpu"
            )
        return library


BACKEND = OnnxRuntimeCudaBackend()


class OnnxRuntimeCudaRunner(OnnxRuntimeRunner):
    """A session on a card, which can be lost for good."""

    def infer(self, frames: Sequence[Frame]) -> None:
        """See `engines.runner.Runner.infer`."""
        try:
            super().infer(frames)
        except InferenceError as error:
            if "CUDA failure" in str(error) and "out of memory" not in str(error):  # such errors stick to the process
                raise EngineDeadError(f"the card does not answer any more: {error}") from error
            raise
