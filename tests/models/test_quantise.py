"""INT8: close to the float network, on every runtime that has to run it, and calibrated by what it is shown."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from models.checkpoint import load_checkpoint
from models.fold import FoldedXLSR
from models.quantise import QuantisedXLSR, calibrate
from models.registry import MODELS, Model, build_network
from models.xlsr import XLSR
from tests.support.frames import natural

INT8_MODELS = [model for model in MODELS if "int8" in model.precisions]


def picture(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(natural(48, 64, seed)).permute(2, 0, 1)[None] / 255


def folded(model: Model) -> FoldedXLSR:
    network = build_network(model.architecture, model.scale)
    load_checkpoint(network, model.checkpoint)
    assert isinstance(network, XLSR)
    return FoldedXLSR(network).eval()


@pytest.mark.parametrize("model", INT8_MODELS, ids=lambda model: model.title)
@torch.no_grad()
def test_int8_is_close_to_float(model: Model) -> None:
    network = folded(model)
    quantised = QuantisedXLSR(network, calibrate(network, (picture(seed) for seed in range(4))))
    error = quantised(picture(9)) - network(picture(9))
    assert 0 < error.square().mean().sqrt() * 255 < 1.5  # levels


@torch.no_grad()
def test_scales_follow_what_is_shown() -> None:
    network = folded(INT8_MODELS[0])
    bright, dark = (calibrate(network, (picture(seed) * gain for seed in range(3))) for gain in (1.0, 0.1))
    assert all(one < 0.7 * other for one, other in zip(dark, bright, strict=True))


@pytest.mark.parametrize("model", INT8_MODELS, ids=lambda model: model.title)
@pytest.mark.parametrize("form", ["rgb", "yuv420"])
def test_the_shipped_graph_is_explicit_and_symmetric(model: Model, form: str) -> None:
    graph = onnx.load(model.onnx(form, "int8")).graph  # type: ignore[arg-type]
    quantisers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantisers) == 5
    zeros = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer if i.data_type == TensorProto.INT8}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not np.any(zeros[node.input[2]])
    assert sum(array.ndim == 4 for array in zeros.values()) == 5  # the weights
    last = next(node for node in reversed(graph.node) if node.op_type == "Conv" and node.input[0] != "rgb_to_yuv")
    assert last.output[0] not in [node.input[0] for node in quantisers]


@pytest.mark.parametrize("model", INT8_MODELS, ids=lambda model: model.title)
def test_runtimes_agree_on_the_shipped_graph(model: Model) -> None:
    """OpenVINO and ONNX Runtime on integers, PyTorch on rounded floats: a step that flips inside moves a few levels."""
    ort = pytest.importorskip("onnxruntime")
    ov = pytest.importorskip("openvino")
    path = str(model.onnx("rgb", "int8"))
    image = natural(48, 64)[None]
    expected = QuantisedXLSR(folded(model), model.card()["int8_input_steps"])
    with torch.no_grad():
        subpixels = expected.subpixels(picture())
    truth = (subpixels.clamp(0, 1) * 255).round()[0].reshape(3, model.scale**2, 48, 64).permute(2, 3, 1, 0).flatten(2).numpy()
    ours = {
        "onnxruntime": ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"rgb": image})[0],
        "openvino": ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([image])[0],
    }
    for name, result in ours.items():
        difference = result[0].astype(int) - truth
        assert np.sqrt(np.mean(difference**2)) < 1 and np.abs(difference).max() <= 8, name
