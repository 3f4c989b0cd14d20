"""PyTorch -> ONNX: the only place that knows the opset, the names of inputs and outputs, and their dynamic sizes.

Every export is proved: the written file is run by ONNX's own reference evaluator and compared with PyTorch.
"""

import logging
import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from models.colour import Colour
from models.errors import FourfoldError
from models.fold import FoldedSwiftSRGAN, FoldedXLSR
from models.quantise import QuantisedXLSR
from models.registry import Form
from models.swift_srgan import SwiftSRGAN
from models.video_io import HalfPrecision, RgbGraph, RgbSubpixelGraph, SubpixelNetwork, YuvGraph, YuvSubpixelGraph
from models.xlsr import XLSR

OPSET = 20

INPUTS: dict[Form, tuple[str, ...]] = {"rgb": ("rgb",), "yuv420": ("y", "u", "v", "yuv_to_rgb", "rgb_to_yuv")}
PHASES = ("phases",)  # subpixels, shuffled by whoever runs the graph
OUTPUTS: dict[Form, tuple[str, ...]] = {"rgb": ("rgb_out",), "yuv420": ("y_out", "u_out", "v_out")}


Tolerance = tuple[int, float]
"""Levels by which a value may differ, and the share of values that may: sums in another order round to the other side."""
EXACT: Tolerance = (1, 0.01)
HALF: Tolerance = (2, 0.2)  # two FP16 implementations of a deep network
INT8: Tolerance = (8, 0.05)  # a sum that rounds to the next INT8 step inside moves what is made of it


class ExportError(FourfoldError):
    """The exported graph does not compute what PyTorch computes."""


def folded(network: nn.Module) -> nn.Module:
    """The fastest exactly equal form of `network`."""
    if isinstance(network, XLSR):
        return FoldedXLSR(network).eval()
    if isinstance(network, SwiftSRGAN):
        return FoldedSwiftSRGAN(network).eval()
    return network.eval()


def serving_graph(network: nn.Module, scale: int, form: Form) -> tuple[nn.Module, tuple[str, ...]]:
    """`network` with uint8 borders of the given form, and the names of its outputs."""
    subpixel = isinstance(network, SubpixelNetwork)
    if form == "rgb":
        return (RgbSubpixelGraph(network, scale), PHASES) if subpixel else (RgbGraph(network), OUTPUTS[form])
    if subpixel and scale % 2 == 0:
        return YuvSubpixelGraph(network, scale), PHASES
    return YuvGraph(network), OUTPUTS[form]


def export(network: nn.Module, scale: int, form: Form, path: Path) -> None:
    """Writes `network`, folded, to `path` as ONNX with dynamic batch, height and width.

    Args:
        network: in FP32, or a `HalfPrecision` or `QuantisedXLSR` of a folded one.

    Raises:
        ExportError: the file computes something else than PyTorch; nothing is left at `path`.
    """
    graph, outputs = serving_graph(folded(network), scale, form)
    tolerances = {HalfPrecision: HALF, QuantisedXLSR: INT8}
    write_onnx(graph.eval(), form, outputs, path, tolerances.get(type(network), EXACT))


def export_unfolded(network: nn.Module, path: Path) -> None:
    """Writes `network` to `path` as anyone would export it: not folded, uint8 RGB in and out, pixel shuffle inside."""
    write_onnx(RgbGraph(network).eval(), "rgb", OUTPUTS["rgb"], path, EXACT)


def write_onnx(graph: nn.Module, form: Form, outputs: tuple[str, ...], path: Path, tolerance: Tolerance) -> None:
    """Exports `graph` to `path` and proves the file against PyTorch on an odd and an even size, before it gets its name.

    Raises:
        ExportError: it differs by more than `tolerance`; nothing is left at `path`.
    """
    partial = path.with_suffix(".partial")
    try:
        _export(graph, form, outputs, partial)
        for height, width in ((23, 37), (16, 24)):
            _prove(graph, form, partial, height, width, tolerance)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def example(form: Form, height: int, width: int) -> tuple[Tensor, ...]:
    """Random inputs of one frame, in the order of INPUTS[form]."""
    random = np.random.default_rng(0)

    def plane(*shape: int) -> Tensor:
        return torch.from_numpy(random.integers(0, 256, shape, dtype=np.uint8))

    if form == "rgb":
        return (plane(1, height, width, 3),)
    chroma = (1, 1, (height + 1) // 2, (width + 1) // 2)
    colour = Colour("bt709", "limited")
    coefficients = (torch.from_numpy(colour.yuv_to_rgb()), torch.from_numpy(colour.rgb_to_yuv()))
    return (plane(1, 1, height, width), plane(*chroma), plane(*chroma), *coefficients)


def _export(graph: nn.Module, form: Form, outputs: tuple[str, ...], path: Path) -> None:
    sides = (1, 2) if form == "rgb" else (2, 3)
    axes = dict.fromkeys((0, *sides), torch.export.Dim.DYNAMIC)
    images = dict.fromkeys(INPUTS[form][:3], axes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            graph,
            example(form, 46, 62),
            str(path),
            input_names=INPUTS[form],
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=tuple(images.get(name) for name in INPUTS[form]),
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # where in which Python file it came from: noise, and a path of this machine
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@torch.no_grad()
def _prove(graph: nn.Module, form: Form, path: Path, height: int, width: int, tolerance: Tolerance) -> None:
    inputs = example(form, height, width)
    expected = graph(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    feed = {name: tensor.numpy() for name, tensor in zip(INPUTS[form], inputs, strict=True)}
    levels, rare = tolerance
    results: list[npt.NDArray[np.uint8]] = ReferenceEvaluator(str(path)).run(None, feed)  # type: ignore[assignment]
    for tensor, result in zip(expected, results, strict=True):
        difference = np.abs(tensor.numpy().astype(int) - result.astype(int))
        if difference.max() > levels or np.mean(difference > 0) > rare:
            raise ExportError(f"{path.name}: differs from PyTorch by up to {difference.max()} levels at {width}x{height}")
