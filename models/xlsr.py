"""XLSR: an extremely lightweight, quantisation-robust super-resolution network.

Source: Ayazoglu, "Extremely Lightweight Quantization Robust Real-Time Single-Image Super Resolution for Mobile Devices",
Mobile AI workshop 2021, section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class XLSRConfig:
    """The sizes of an XLSR network; the defaults are the paper's."""

    scale: int = 4  # output pixels for one input pixel, in each direction
    width: int = 32  # channels between the blocks
    groups: int = 4  # groups of the 3x3 convolution in a Gblock
    skip: int = 16  # channels taken from the input directly to the end
    blocks: int = 3  # Gblocks


class Gblock(nn.Module):
    """A grouped 3x3 convolution, ReLU, and the 1x1 convolution that mixes the groups again.

    The paper's 1x1 has a bias. Here it has one only where no padded 3x3 convolution follows: a bias in front of zero
    padding cannot be folded away exactly at the picture's border.
    """

    def __init__(self, config: XLSRConfig, *, last: bool) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(config.width, config.width, 3, padding=1, groups=config.groups)
        self.mix = nn.Conv2d(config.width, config.width, 1, bias=last)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(F.relu(self.grouped(x)))
        return mixed


class XLSR(nn.Module):
    """XLSR for one scale. 27,920 parameters at x4: the paper's 28,016 less 96 biases (see `Gblock`)."""

    def __init__(self, config: XLSRConfig) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Conv2d(3, config.width, 3, padding=1)  # the paper's four 3->8 heads, concatenated, are one 3->32
        self.mix = nn.Conv2d(config.width, config.width, 1, bias=False)
        self.blocks = nn.Sequential(*(Gblock(config, last=i == config.blocks - 1) for i in range(config.blocks)))
        self.skip = nn.Conv2d(3, config.skip, 3, padding=1)
        self.merge = nn.Conv2d(config.width + config.skip, config.width, 1)
        self.tail = nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            conv.weight.data *= 0.1**0.5  # variance scaling by 0.1 keeps early activations free of outliers (section 3.3)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def subpixels(self, rgb: Tensor) -> Tensor:
        """[N, 3, H, W] RGB in 0..1 -> [N, 3 * scale**2, H, W], unclipped: the picture before clip and pixel shuffle."""
        features = self.blocks(self.mix(F.relu(self.head(rgb))))  # [N, 32, H, W]
        merged = F.relu(self.merge(torch.cat([features, self.skip(rgb)], dim=1)))  # [N, 48, H, W] -> [N, 32, H, W]
        subpixels: Tensor = self.tail(merged)
        return subpixels

    def forward(self, rgb: Tensor) -> Tensor:
        """[N, 3, H, W] RGB float in 0..1 -> [N, 3, scale * H, scale * W] in 0..1; any H and W."""
        return F.pixel_shuffle(self.subpixels(rgb).clamp(0, 1), self.config.scale)
