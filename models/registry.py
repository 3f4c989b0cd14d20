"""Every architecture and every model that has a name: explicit, ordered lists. Reading them needs no torch.

An architecture is something to train; a model is an architecture with a checkpoint, exported and ready to run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from models.errors import FourfoldError

if TYPE_CHECKING:
    from torch import nn

Form = Literal["rgb", "yuv420"]
"""What a graph takes and gives: packed RGB pictures, or planar YUV 4:2:0 frames. See `models.video_io`."""

FORMS: tuple[Form, ...] = ("rgb", "yuv420")

HERE = Path(__file__).parent


class UnknownModelError(FourfoldError):
    """No model or architecture of that name and scale; the message lists what there is."""


@dataclass(frozen=True)
class Architecture:
    """A network that can be built and trained."""

    name: str
    scales: tuple[int, ...]
    build: Callable[[int], nn.Module]  # scale -> network with fresh weights


@dataclass(frozen=True)
class Model:
    """A network with a checkpoint, exported to ONNX; all files lie in this package."""

    name: str
    scale: int
    architecture: str
    summary: str
    intended_use: str
    precisions: tuple[str, ...] = ("fp32", "fp16")  # that it is exported in

    @property
    def title(self) -> str:
        """The stem of every file of this model: NAME-xS."""
        return f"{self.name}-x{self.scale}"

    @property
    def checkpoint(self) -> Path:
        return HERE / "checkpoints" / f"{self.title}.safetensors"

    def onnx(self, form: Form, precision: str = "fp32") -> Path:
        return HERE / "onnx" / f"{self.title}-{form}-{precision}.onnx"

    @property
    def reference_onnx(self) -> Path:
        """The network as published, not folded, RGB: what folded graphs are compared with."""
        return HERE / "onnx" / f"{self.title}-rgb-fp32-unfolded.onnx"

    def card(self) -> dict[str, Any]:
        """The model card: parameters, how it was trained, and its figures (`figures`: set -> metric -> value)."""
        card: dict[str, Any] = json.loads((HERE / "checkpoints" / f"{self.title}.json").read_text())
        return card


def _xlsr(scale: int) -> nn.Module:
    from models.xlsr import XLSR, XLSRConfig

    return XLSR(XLSRConfig(scale=scale))


def _swift_srgan(scale: int) -> nn.Module:
    from models.swift_srgan import SwiftSRGAN, SwiftSRGANConfig

    return SwiftSRGAN(SwiftSRGANConfig(scale=scale))


def _bicubic(scale: int) -> nn.Module:
    from models.bicubic import Bicubic, BicubicConfig

    return Bicubic(BicubicConfig(scale=scale))


ARCHITECTURES = (
    Architecture("xlsr", (2, 3, 4), _xlsr),
    Architecture("swift-srgan", (2, 4), _swift_srgan),
    Architecture("bicubic", (2, 3, 4), _bicubic),
)

_CLEAN = "upscaling clean, lightly compressed video and pictures; strong compression is amplified: take xlsr-live there"
_LIVE = "upscaling live streams, whose pictures went through an encoder; on clean ones xlsr is better"
_PIXELS = "upscaling clean video and pictures where time does not matter; a start for adversarial training"
_LOOKS = "looks over truth: crisp textures, some of which are invented; not where details must be right"

MODELS = (  # of one scale, best PSNR first: the order in which `auto` considers them
    Model("xlsr", 4, "xlsr", "28 thousand parameters; the default", _CLEAN, ("fp32", "fp16", "int8")),
    Model("swift-srgan-psnr", 4, "swift-srgan", "twelve times the arithmetic, trained on pixels", _PIXELS),
    Model("xlsr-live", 4, "xlsr", "trained on compressed input, for live streams", _LIVE, ("fp32", "fp16", "int8")),
    Model("swift-srgan", 4, "swift-srgan", "the same network, trained against an adversary", _LOOKS),
    Model("xlsr", 3, "xlsr", "22 thousand parameters", _CLEAN),
    Model("xlsr", 2, "xlsr", "18 thousand parameters", _CLEAN),
    *(Model("bicubic", s, "bicubic", "plain interpolation, the baseline", "comparisons", ("fp32",)) for s in (4, 3, 2)),
)


def build_network(name: str, scale: int) -> nn.Module:
    """A network of the architecture `name` with fresh weights, for training or to load a checkpoint into.

    Raises:
        UnknownModelError: no such architecture, or not at this scale.
    """
    for architecture in ARCHITECTURES:
        if architecture.name == name and scale in architecture.scales:
            return architecture.build(scale)
    known = ", ".join(f"{a.name} (x{', x'.join(map(str, a.scales))})" for a in ARCHITECTURES)
    raise UnknownModelError(f"there is no architecture {name} at x{scale}; there are {known}")


def find_model(name: str, scale: int) -> Model:
    """The model called `name` at `scale`; of `auto`, the one with the best PSNR.

    Raises:
        UnknownModelError: no such model, or not at this scale.
    """
    for model in MODELS:
        if model.scale == scale and name in ("auto", model.name):
            return model
    known = ", ".join(f"{m.name} (x{m.scale})" for m in MODELS)
    raise UnknownModelError(f"there is no model {name} at x{scale}; there are {known}")
