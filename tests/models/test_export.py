"""The shipped ONNX files compute what PyTorch computes, by ONNX's own reference evaluator."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from models.checkpoint import load_checkpoint
from models.export import (
    EXACT,
    HALF,
    INPUTS,
    INT8,
    OPSET,
    ExportError,
    Tolerance,
    example,
    export,
    folded,
    serving_graph,
    write_onnx,
)
from models.fold import FoldedXLSR
from models.quantise import QuantisedXLSR
from models.registry import MODELS, Form, Model, build_network
from models.video_io import HalfPrecision, RgbGraph
from models.xlsr import XLSR, XLSRConfig

FILES = [pytest.param(m, p, id=f"{m.title}-{p}") for m in MODELS for p in m.precisions]


def network_of(model: Model, precision: str = "fp32") -> nn.Module:
    network = build_network(model.architecture, model.scale).eval()
    if model.architecture != "bicubic":
        load_checkpoint(network, model.checkpoint)
    if precision == "int8":
        quantised = folded(network)
        assert isinstance(quantised, FoldedXLSR)
        return QuantisedXLSR(quantised, model.card()["int8_input_steps"])
    return HalfPrecision(folded(network)) if precision == "fp16" else network


@torch.no_grad()
def assert_equal(graph: nn.Module, form: Form, path: Path, height: int, width: int, tolerance: Tolerance = EXACT) -> None:
    """Equal but for sums that land on the other side of a rounding."""
    inputs = example(form, height, width)
    expected = graph(*inputs)
    feed = {name: tensor.numpy() for name, tensor in zip(INPUTS[form], inputs, strict=True)}
    results = ReferenceEvaluator(str(path)).run(None, feed)
    for tensor, result in zip(expected if isinstance(expected, tuple) else (expected,), results, strict=True):
        assert result.dtype == np.uint8 and result.shape == tuple(tensor.shape)
        difference = np.abs(tensor.numpy().astype(int) - result)
        assert difference.max() <= tolerance[0] and np.mean(difference > 0) < tolerance[1]


@pytest.mark.parametrize(("model", "precision"), FILES)
@pytest.mark.parametrize("form", ["rgb", "yuv420"])
@pytest.mark.parametrize(("height", "width"), [(12, 10), (7, 9), (1, 1)])
def test_shipped_file_is_the_checkpoint(model: Model, precision: str, form: Form, height: int, width: int) -> None:
    graph, outputs = serving_graph(folded(network_of(model, precision)), model.scale, form)
    assert_equal(
        graph.eval(), form, model.onnx(form, precision), height, width, {"fp16": HALF, "int8": INT8}.get(precision, EXACT)
    )
    names = [value.name for value in onnx.load(model.onnx(form, precision)).graph.output]
    assert tuple(names) == outputs


@pytest.mark.parametrize("model", [m for m in MODELS if m.architecture != "bicubic"], ids=lambda model: model.title)
def test_shipped_reference_is_the_unfolded_checkpoint(model: Model) -> None:
    assert_equal(RgbGraph(network_of(model)).eval(), "rgb", model.reference_onnx, 9, 14)


@pytest.mark.parametrize(("model", "precision"), FILES)
@pytest.mark.parametrize("form", ["rgb", "yuv420"])
def test_shipped_file_takes_any_size(model: Model, precision: str, form: Form) -> None:
    shipped = onnx.load(model.onnx(form, precision))
    assert [opset.version for opset in shipped.opset_import if not opset.domain] == [OPSET]
    assert tuple(value.name for value in shipped.graph.input) == INPUTS[form]
    for value in shipped.graph.input[: 1 if form == "rgb" else 3]:
        shape = value.type.tensor_type.shape.dim
        free = [bool(dim.dim_param) for dim in shape]
        assert free == ([True, True, True, False] if form == "rgb" else [True, False, True, True])


def test_a_new_network_is_exported_and_proved(tmp_path: Path) -> None:
    network = XLSR(XLSRConfig(scale=2, width=8, blocks=1, skip=4)).eval()
    export(network, 2, "yuv420", tmp_path / "x.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    assert_equal(serving_graph(folded(network), 2, "yuv420")[0], "yuv420", tmp_path / "x.onnx", 5, 6)


class Fickle(nn.Module):
    """Traced once, it does one thing; run again, another."""

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        return rgb if torch.compiler.is_compiling() else 255 - rgb


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differs from PyTorch by up to"):
        write_onnx(Fickle().eval(), "rgb", ("rgb_out",), tmp_path / "x.onnx", EXACT)
    assert not list(tmp_path.iterdir())
