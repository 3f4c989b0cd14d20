"""ONNX Runtime on the CPU: the second opinion, and the backend where OpenVINO has no wheels."""

from typing import Any

from engines.backends._cpu import CpuRunner, cpu_layouts
from engines.runner import (
    INPUTS,
    BackendUnavailableError,
    EngineSpec,
    Goal,
    InferenceError,
    Layout,
    Planes,
    Precision,
)
from engines.shuffle import deliver


class OnnxRuntimeBackend:
    """Sessions on the CPU provider; the colour coefficients stay inputs."""

    name = "onnxruntime"

    def version(self) -> str:
        version: str = _onnxruntime().__version__
        return version

    def device(self) -> str:
        return "CPU"

    def precisions(self) -> dict[Precision, str]:
        return {"fp32": "every CPU can", "int8": "where the model has such a graph"}

    def layouts(self, goal: Goal, cores: int) -> list[Layout]:
        return cpu_layouts(goal, cores)

    def build(self, spec: EngineSpec) -> bytes:
        return spec.onnx.read_bytes()  # a session optimises the graph in milliseconds: nothing to gain from keeping more

    def load(self, compiled: bytes, spec: EngineSpec) -> "OnnxRuntimeRunner":
        options = _onnxruntime().SessionOptions()
        options.intra_op_num_threads = spec.layout.threads
        options.log_severity_level = 3
        try:
            session = _onnxruntime().InferenceSession(compiled, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own, unrelated exception types
            raise BackendUnavailableError(f"ONNX Runtime cannot load {spec.onnx.name}: {error}") from error
        return OnnxRuntimeRunner(session, spec)


BACKEND = OnnxRuntimeBackend()


class OnnxRuntimeRunner(CpuRunner):
    """A session; ONNX Runtime lets several threads run it at once."""

    def __init__(self, session: Any, spec: EngineSpec) -> None:
        self._spec, self._session = spec, session
        self._colour = {"yuv_to_rgb": spec.colour.yuv_to_rgb(), "rgb_to_yuv": spec.colour.rgb_to_yuv()} if spec.colour else {}

    def infer_one(self, inputs: Planes, outputs: Planes) -> None:
        """See `CpuRunner.infer_one`."""
        lead = (None,) if self._spec.form == "rgb" else (None, None)
        feed = {name: plane[lead] for name, plane in zip(INPUTS[self._spec.form], inputs, strict=True)}
        try:
            results = self._session.run(None, feed | self._colour)
        except Exception as error:  # ONNX Runtime raises its own, unrelated exception types
            raise InferenceError(f"ONNX Runtime could not compute a frame: {error}") from error
        deliver(results, outputs, self._spec.scale)

    def close(self) -> None:
        self._session = None


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailableError(
            f"ONNX Runtime cannot be loaded ({error}); pip install 'fourfold[onnxruntime]'"
        ) from error
    return onnxruntime
