"""TensorRT parses and compiles every shipped graph, in its own precision, without a card."""

from typing import Any

import pytest

from models.registry import FORMS, MODELS, Form, Model

FILES = [pytest.param(m, p, f, id=f"{m.title}-{f}-{p}") for m in MODELS for p in m.precisions for f in FORMS]


def shape(name: str, height: int, width: int) -> tuple[int, ...]:
    if name == "rgb":
        return (1, height, width, 3)
    return (1, 1, height, width) if name == "y" else (1, 1, height // 2, width // 2)


@pytest.mark.parametrize(("model", "precision", "form"), FILES)
def test_tensorrt_takes_the_shipped_graph(model: Model, precision: str, form: Form) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: no build for this machine")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.onnx(form, precision).read_bytes()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *(shape(tensor.name, *size) for size in ((64, 64), (270, 480), (540, 960))))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    quantisers = [layer for layer in layers if layer.type == trt.LayerType.QUANTIZE]
    assert bool(quantisers) == (precision == "int8")
    halves = [layer for layer in layers if layer.get_output(0).dtype == trt.DataType.HALF]
    assert bool(halves) == (precision == "fp16")
