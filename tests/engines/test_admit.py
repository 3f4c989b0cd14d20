"""Admission: what computes something else than its network never serves."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines.admit import MARGIN, PARITY_DB, PATCH, admit
from engines.backends import CPU_BACKENDS, find_backend
from engines.build import open_runner
from engines.runner import BackendUnavailableError, EngineRefusedError, EngineSpec, Frame, Plane, Planes
from models.registry import FORMS, MODELS, Form
from tests.support.engines import spec_of

Damage = Callable[[Planes], None]


class DamagedRunner:
    """The right runner, whose pictures are spoilt before they are handed over."""

    def __init__(self, spec: EngineSpec, damage: Damage) -> None:
        self._runner, self._damage = open_runner("openvino", spec), damage

    def infer(self, frames: Sequence[Frame]) -> None:
        self._runner.infer(frames)
        for frame in frames:
            self._damage(frame.outputs)

    def pin(self, memory: Plane) -> None: ...

    def unpin(self, memory: Plane) -> None: ...

    def close(self) -> None:
        self._runner.close()


@pytest.mark.parametrize("size", [(48, 32), (37, 51), (PATCH + 1, PATCH), (301, 203)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", [m for m in MODELS if m.architecture != "swift-srgan"], ids=lambda model: model.title)
def test_the_right_picture_is_admitted(model, form: Form, size: tuple[int, int]) -> None:
    spec = spec_of(model.name, model.scale, form, *size)
    assert admit(open_runner("openvino", spec), spec) > 50


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title)
def test_every_precision_of_every_model_is_admitted(model, form: Form, backend: str) -> None:
    for precision in find_backend(backend).precisions():
        spec = spec_of(model.name, model.scale, form, 80, 56, precision)
        if spec.graphs.file(precision):
            assert admit(open_runner(backend, spec), spec) > PARITY_DB[precision] + 2


def test_no_network_here_sees_further_than_the_margin() -> None:
    """SwiftSRGAN sees the furthest: were a cut edge seen in what is compared, the figure would fall."""
    spec = spec_of("swift-srgan-psnr", 4, "yuv420", 2 * PATCH - MARGIN, PATCH + 34)
    assert admit(open_runner("openvino", spec), spec) > 60


def black(planes: Planes) -> None:
    for plane in planes:
        plane[...] = 0


def always_the_same(planes: Planes) -> None:
    for plane in planes:
        plane[...] = np.arange(plane.size).reshape(plane.shape) % 251


def swapped_chroma(planes: Planes) -> None:
    planes[1][...], planes[2][...] = planes[2].copy(), planes[1].copy()


def shifted(planes: Planes) -> None:
    for plane in planes:
        plane[...] = np.roll(plane, 4, axis=1)


def wrong_corner(planes: Planes) -> None:
    planes[0][-40:, -40:] = 255 - planes[0][-40:, -40:]


def wrong_size(planes: Planes) -> None:
    planes[0][...] = np.zeros((3, 5), np.uint8)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (black, "black or of one colour"),
        (always_the_same, "two different frames gave the same picture"),
        (swapped_chroma, "dB against FP32, and it takes 50"),
        (shifted, "dB against FP32"),
        (wrong_corner, "dB against FP32"),
        (wrong_size, "a 300x180 frame failed: could not broadcast"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_picture_is_refused(damage: Damage, says: str) -> None:
    spec = spec_of("xlsr", 4, "yuv420", 300, 180)
    with pytest.raises(EngineRefusedError, match=says) as refusal:
        admit(DamagedRunner(spec, damage), spec)
    assert "xlsr-x4 in fp32, 300x180" in str(refusal.value)


def with_int8(spec: EngineSpec, graph: onnx.ModelProto, path: Path) -> EngineSpec:
    """The spec with another INT8 graph; FP32 still says what it should compute."""
    path.write_bytes(graph.SerializeToString())
    return replace(spec, graphs=replace(spec.graphs, files={**spec.graphs.files, "int8": path}))


@pytest.fixture
def int8() -> EngineSpec:
    return spec_of("xlsr", 4, "yuv420", 64, 48, "int8")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("value", [np.nan, 9.0])
def test_a_graph_that_gives_nonsense_never_opens(backend: str, value: float, int8: EngineSpec, tmp_path: Path) -> None:
    graph = onnx.load(int8.onnx)
    biases = [w for w in graph.graph.initializer if w.data_type == onnx.TensorProto.FLOAT and w.name.endswith("tail.bias")]
    for weights in biases:
        weights.CopyFrom(numpy_helper.from_array(np.full(weights.dims, value, np.float32), weights.name))
    assert biases
    with pytest.raises((EngineRefusedError, BackendUnavailableError), match=r"was refused|cannot compile"):
        open_runner(backend, with_int8(int8, graph, tmp_path / "broken.onnx"))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_an_unknown_operator_is_named(backend: str, int8: EngineSpec, tmp_path: Path) -> None:
    graph = onnx.load(int8.onnx)
    next(node for node in graph.graph.node if node.op_type == "Relu").op_type = "Frobnicate"
    with pytest.raises(BackendUnavailableError, match=r"strange\.onnx.*Frobnicate"):
        open_runner(backend, with_int8(int8, graph, tmp_path / "strange.onnx"))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_weights_outside_the_file_are_never_read(backend: str, int8: EngineSpec, tmp_path: Path) -> None:
    graph = onnx.load(int8.onnx)
    weights = max(graph.graph.initializer, key=lambda w: len(w.raw_data))
    (tmp_path / "secret").write_bytes(weights.raw_data)
    onnx.external_data_helper.set_external_data(weights, "../secret")
    weights.ClearField("raw_data")
    folder = tmp_path / "models"
    folder.mkdir()
    with pytest.raises(BackendUnavailableError, match=r"outside\.onnx"):
        open_runner(backend, with_int8(int8, graph, folder / "outside.onnx"))
