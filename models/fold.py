"""Exact re-writings of a trained network into a faster equal one.

Knows nothing of how the result is exported or run. Each re-writing gives the same picture up to float rounding.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.swift_srgan import Separable, SwiftSRGAN
from models.xlsr import XLSR, Gblock


class FoldedXLSR(nn.Module):
    """An XLSR as a chain of plain convolutions: dense 3x3 ones are several times faster than grouped ones on tensor units."""

    def __init__(self, network: XLSR) -> None:
        """Folds each 1x1 convolution into the convolution behind it; no activation stands between the two."""
        super().__init__()
        self.config = network.config
        self.head = copy.deepcopy(network.head)
        mix = _matrix(network.mix)  # [out, in]: the 1x1 that waits to be folded into the next 3x3
        gblocks: list[Gblock] = list(network.blocks)  # type: ignore[arg-type]
        self.body = nn.ModuleList()
        for block in gblocks:
            self.body.append(_conv(_after(_dense(block.grouped), mix), block.grouped.bias))
            mix = _matrix(block.mix)
        width = network.config.width
        merge = _matrix(network.merge)
        from_features, from_skip = merge[:, :width], merge[:, width:]
        bias = _bias(network.merge) + from_features @ _bias(gblocks[-1].mix) + from_skip @ _bias(network.skip)
        self.merge_features = _conv((from_features @ mix)[:, :, None, None], None)
        self.merge_input = _conv(torch.einsum("os,sikl->oikl", from_skip, network.skip.weight), bias)
        self.tail = copy.deepcopy(network.tail)

    def subpixels(self, rgb: Tensor) -> Tensor:
        """As `XLSR.subpixels`: [N, 3, H, W] in 0..1 -> [N, 3 * scale**2, H, W], unclipped."""
        x = F.relu(self.head(rgb))
        for conv in self.body:
            x = F.relu(conv(x))
        x = F.relu(self.merge_features(x) + self.merge_input(rgb))
        subpixels: Tensor = self.tail(x)
        return subpixels

    def forward(self, rgb: Tensor) -> Tensor:
        """As `XLSR.forward`: [N, 3, H, W] in 0..1 -> [N, 3, scale * H, scale * W] in 0..1."""
        return F.pixel_shuffle(self.subpixels(rgb).clamp(0, 1), self.config.scale)


def fold_batch_norm(network: SwiftSRGAN) -> SwiftSRGAN:
    """A copy of `network` whose batch normalisations (running statistics) are part of the pointwise convolutions before."""
    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (_, convolution), (name, norm) in pairwise(children):
            if isinstance(convolution, Separable) and isinstance(norm, nn.BatchNorm2d):
                _absorb(convolution, norm)
                setattr(parent, name, nn.Identity())
    return folded


@torch.no_grad()
def _absorb(convolution: Separable, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    pointwise = convolution.pointwise
    bias = torch.zeros_like(factor) if pointwise.bias is None else pointwise.bias
    pointwise.weight.copy_(pointwise.weight * factor[:, None, None, None])
    pointwise.bias = nn.Parameter((bias - norm.running_mean) * factor + norm.bias)


def _matrix(conv: nn.Conv2d) -> Tensor:
    """The [out, in] matrix of a 1x1 convolution."""
    return conv.weight[:, :, 0, 0]


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _dense(conv: nn.Conv2d) -> Tensor:
    """The weight [out, in, k, k] of a grouped convolution, with the zeros between its groups written out."""
    return torch.cat(
        [
            F.pad(part, (0, 0, 0, 0, group * part.shape[1], (conv.groups - 1 - group) * part.shape[1]))
            for group, part in enumerate(conv.weight.chunk(conv.groups))
        ]
    )


def _after(weight: Tensor, mix: Tensor) -> Tensor:
    """The weight of `weight` [out, mid, k, k] applied after the 1x1 convolution `mix` [mid, in]."""
    return torch.einsum("omkl,mi->oikl", weight, mix)


def _conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution that keeps height and width, with a copy of the given weights."""
    out_channels, in_channels, size, _ = weight.shape
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=bias is not None)
    conv.weight.data = weight.detach().clone()
    if bias is not None and conv.bias is not None:
        conv.bias.data = bias.detach().clone()
    return conv
