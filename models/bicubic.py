"""Bicubic interpolation written as a network: one fixed 5x5 convolution and a pixel shuffle.

The baseline that is always there: it needs no training, runs on every backend, and is what a stream falls back to.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.resize import cubic


@dataclass(frozen=True)
class BicubicConfig:
    scale: int = 4  # output pixels for one input pixel, in each direction


class Bicubic(nn.Module):
    """Polyphase bicubic upsampling (a = -0.5, replicated edges).

    Equal to `models.resize.upscale` but for the rounding and the clip that stand between its two passes.
    """

    kernel: Tensor

    def __init__(self, config: BicubicConfig) -> None:
        super().__init__()
        self.config = config
        scale = config.scale
        phases = (np.arange(scale) + 0.5) / scale - 0.5  # where each output pixel lies, seen from its input pixel
        line = cubic(phases[:, None] - np.arange(-2, 3))  # [scale, 5]
        kernel = np.einsum("ai,bj->abij", line, line).reshape(scale**2, 1, 5, 5)
        self.register_buffer("kernel", torch.tensor(kernel, dtype=torch.float32), persistent=False)

    def subpixels(self, rgb: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..1 -> [N, 3 * scale**2, H, W], unclipped."""
        padded = F.pad(rgb, (2, 2, 2, 2), mode="replicate")
        return F.conv2d(padded, self.kernel.repeat(3, 1, 1, 1), groups=3)

    def forward(self, rgb: Tensor) -> Tensor:
        """[N, 3, H, W] RGB float in 0..1 -> [N, 3, scale * H, scale * W] in 0..1; any H and W."""
        return F.pixel_shuffle(self.subpixels(rgb).clamp(0, 1), self.config.scale)
