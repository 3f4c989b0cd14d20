"""Exact re-writings of a trained network into a faster equal one.

Knows nothing of how the result is exported or run. Each re-writing gives the same picture up to float rounding.
"""

import copy
from itertools import pairwise
from typing import cast

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


class SubpixelSwiftSRGAN(nn.Module):
    """A SwiftSRGAN that never reaches output size; its weights are those of the network given, not copies.

    The last pixel shuffle comes after the last convolution instead of before it: PReLU knows nothing of positions, and a 9x9
    convolution of a shuffled picture is a 5x5 one of the unshuffled picture with four times the channels (polyphase form).
    Forward and backward pass take less than half the time: nothing with 64 channels exists at output size.
    """

    def __init__(self, network: SwiftSRGAN) -> None:
        super().__init__()
        self.network = network

    def subpixels(self, rgb: Tensor) -> Tensor:
        """[N, 3, H, W] RGB in 0..1 -> [N, 3 * scale**2, H, W] in 0..1: the picture before its pixel shuffle."""
        network = self.network
        *earlier, (separable, _, prelu) = cast(list[nn.Sequential], list(network.upsample))
        stem = network.stem(rgb)  # [N, 64, H, W]
        features = stem + network.after_blocks(network.blocks(stem))
        for upsample in earlier:
            features = upsample(features)  # [N, 64, s/2 * H, s/2 * W]
        features = F.prelu(separable(features), cast(Tensor, prelu.weight).repeat_interleave(4))  # [N, 256, s/2 * H, s/2 * W]
        kernel, bias = self._tail()
        pixels = (torch.tanh(F.conv2d(features, kernel, bias, padding=2)) + 1) / 2  # [N, 3 * 2 * 2, s/2 * H, s/2 * W]
        n, _, height, width = rgb.shape
        half = network.config.scale // 2
        cells = pixels.view(n, 3, 2, 2, height, half, width, half).permute(0, 1, 5, 2, 7, 3, 4, 6)
        return cells.reshape(n, 3 * network.config.scale**2, height, width)

    def forward(self, rgb: Tensor) -> Tensor:
        """As `SwiftSRGAN.forward`: [N, 3, H, W] in 0..1 -> [N, 3, scale * H, scale * W] in 0..1."""
        return F.pixel_shuffle(self.subpixels(rgb), self.network.config.scale)

    def _tail(self) -> tuple[Tensor, Tensor]:
        return polyphase(self.network.tail)


class FoldedSwiftSRGAN(SubpixelSwiftSRGAN):
    """A SwiftSRGAN to run, not to train: batch normalisation in the convolutions, the polyphase kernel computed once."""

    def __init__(self, network: SwiftSRGAN) -> None:
        super().__init__(fold_batch_norm(network))
        kernel, bias = polyphase(self.network.tail)
        del self.network.tail
        self.kernel, self.bias = (nn.Parameter(tensor.detach(), requires_grad=False) for tensor in (kernel, bias))

    def _tail(self) -> tuple[Tensor, Tensor]:
        return self.kernel, self.bias


def polyphase(convolution: Separable) -> tuple[Tensor, Tensor]:
    """Weight [4 * out, 4 * in, 5, 5] and bias of a separable 9x9 convolution moved before the pixel shuffle it follows."""
    dense = convolution.pointwise.weight * convolution.depthwise.weight[:, 0]  # [out, in, 9, 9]
    phases = []
    for dy in range(2):
        for dx in range(2):
            shifted = F.pad(dense, (dx, 1 - dx, dy, 1 - dy))  # [out, in, 10, 10] from the first pixel of the cell
            cells = shifted.view(*shifted.shape[:2], 5, 2, 5, 2)
            phases.append(cells.permute(0, 1, 3, 5, 2, 4).flatten(1, 3))
    assert convolution.depthwise.bias is not None and convolution.pointwise.bias is not None
    bias = convolution.pointwise.bias + _matrix(convolution.pointwise) @ convolution.depthwise.bias
    return torch.stack(phases, dim=1).flatten(0, 1), bias.repeat_interleave(4)


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
