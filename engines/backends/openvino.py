"""OpenVINO: the CPU backend of the base install. BF16 on cores that multiply it natively (AMX, AVX-512 BF16), else FP32."""

import io
import sys
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, cast

import numpy as np

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
    plane_shapes,
)
from engines.shuffle import deliver


class OpenVINOBackend:
    """Compiles graphs for this CPU; the colour coefficients become constants, so that their convolutions are prepared once."""

    name = "openvino"

    def version(self) -> str:
        version: str = _openvino().__version__
        return version

    def device(self) -> str:
        name: str = _core().get_property("CPU", "FULL_DEVICE_NAME")
        return f"{name} {' '.join(_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'))}"

    def precisions(self) -> dict[Precision, str]:
        int8 = "where the model has such a graph"
        if _has_bf16():
            return {"bf16": "this CPU multiplies BF16 natively (AMX or AVX-512)", "fp32": "every CPU can", "int8": int8}
        return {"fp32": "this CPU has no native BF16", "int8": int8}

    def layouts(self, goal: Goal, cores: int) -> list[Layout]:
        return cpu_layouts(goal, cores)

    def build(self, spec: EngineSpec) -> bytes:
        stream = io.BytesIO()
        try:
            model = _core().read_model(spec.onnx.read_bytes(), b"")  # of bytes: no file beside it is ever opened
            if spec.colour:
                _freeze(model, {"yuv_to_rgb": spec.colour.yuv_to_rgb(), "rgb_to_yuv": spec.colour.rgb_to_yuv()})
            _transpose_bytes(model)
            model.reshape(_shapes(spec))
            _core().compile_model(model, "CPU", _properties(spec)).export_model(stream)
        except RuntimeError as error:
            _, _, summary = str(error).rpartition("Summary:")  # of a graph that cannot be read: the operators
            reason = " ".join(line for line in summary.splitlines() if not line.startswith("Exception from"))
            raise BackendUnavailableError(f"OpenVINO cannot compile {spec.onnx.name}: {reason.strip()[:300]}") from error
        return stream.getvalue()

    def load(self, compiled: bytes, spec: EngineSpec) -> "OpenVINORunner":
        return OpenVINORunner(_core().import_model(io.BytesIO(compiled), "CPU", _properties(spec)), spec)


BACKEND = OpenVINOBackend()


class OpenVINORunner(CpuRunner):
    """A compiled model with one infer request for each lane."""

    def __init__(self, compiled: Any, spec: EngineSpec) -> None:
        self._spec = spec
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(spec.layout.lanes):
            self._requests.put(compiled.create_infer_request())

    def infer_one(self, inputs: Planes, outputs: Planes) -> None:
        """See `CpuRunner.infer_one`."""
        tensor = _openvino().Tensor
        request = self._requests.get()
        try:
            for name, plane in zip(INPUTS[self._spec.form], inputs, strict=True):
                lead = (None,) if self._spec.form == "rgb" else (None, None)
                shaped = np.require(plane, requirements=["C", "W"])[lead]  # what a shared tensor insists on; free in a slot
                request.set_tensor(name, tensor(shaped, shared_memory=True))
            request.infer()
            results = [request.get_output_tensor(i).data for i in range(len(request.model_outputs))]
            deliver(results, outputs, self._spec.scale)
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO could not compute a frame: {error}") from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        while not self._requests.empty():
            self._requests.get()


def _shapes(spec: EngineSpec) -> dict[str, list[int]]:
    """The graph's input shapes: one frame, of the spec's size or of any (-1)."""
    if spec.width is None or spec.height is None:
        return {name: [1, -1, -1, 3] if name == "rgb" else [1, 1, -1, -1] for name in INPUTS[spec.form]}
    shapes = plane_shapes(spec.form, spec.height, spec.width)
    lead = [1] if spec.form == "rgb" else [1, 1]
    return {name: [*lead, *shape] for name, shape in zip(INPUTS[spec.form], shapes, strict=True)}


def _properties(spec: EngineSpec) -> dict[str, Any]:
    floats = "bf16" if spec.precision != "fp32" and _has_bf16() else "f32"  # some values are, in INT8 graphs too
    return {
        "INFERENCE_PRECISION_HINT": floats,
        "NUM_STREAMS": spec.layout.lanes,
        "INFERENCE_NUM_THREADS": spec.layout.lanes * spec.layout.threads,
        "ENABLE_CPU_PINNING": False,  # decoder and encoder share these cores
    }


def _has_bf16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _freeze(model: Any, constants: dict[str, Any]) -> None:
    """Turns inputs of `model` into constants."""
    constant: Callable[[Any], Any] = _openvino().opset13.constant
    for parameter in model.get_parameters():
        for name in constants.keys() & parameter.output(0).get_names():
            parameter.output(0).replace(constant(constants[name]).output(0))
            model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()


def _transpose_bytes(model: Any) -> None:
    """Moves a transposition right before the rounding to uint8 behind it: the same values, a quarter of the memory traffic.

    The graphs round last because TensorRT has uint8 at its borders only.
    """
    for result in model.get_results():
        codes = result.input_value(0)
        entry, node = None, codes.get_node()
        while node.get_type_name() in ("Convert", "Minimum", "Maximum", "Round"):
            (entry,) = (i for i in node.inputs() if i.get_source_output().get_node().get_type_name() != "Constant")
            node = entry.get_source_output().get_node()
        if entry and node.get_type_name() == "Transpose":
            entry.replace_source_output(node.input_value(0))
            moved = _openvino().opset13.transpose(codes, node.input_value(1))
            result.input(0).replace_source_output(moved.output(0))
    model.validate_nodes_and_infer_types()


_loaded: dict[str, Any] = {}


def _openvino() -> Any:
    """The library, imported at first use: it takes longer to load than most commands take to run."""
    if "openvino" not in _loaded:
        # Its telemetry package would report every import to its makers, from a forked child that can hang this process's
        # exit. Without that package OpenVINO uses a stub of its own.
        sys.modules.setdefault("openvino_telemetry", cast(Any, None))
        try:
            import openvino
            import openvino.opset13
        except ImportError as error:
            raise BackendUnavailableError(f"OpenVINO cannot be loaded ({error}); pip install openvino") from error
        _loaded["openvino"] = openvino
    return _loaded["openvino"]


def _core() -> Any:
    if "core" not in _loaded:
        _loaded["core"] = _openvino().Core()
    return _loaded["core"]
