"""SwiftSRGAN: SRGAN's residual generator, and its discriminator, in depthwise separable convolutions.

Source: Krishnan and Krishnan, "SwiftSRGAN: Rethinking Super-Resolution for Efficient and Real-time Inference", ICICyTA 2021,
section III; reference implementation read for what the paper leaves open.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SwiftSRGANConfig:
    """The sizes of a SwiftSRGAN generator; the defaults are the paper's."""

    scale: int = 4  # output pixels for one input pixel, in each direction: a power of two
    width: int = 64  # channels between the blocks
    blocks: int = 16  # residual blocks


class Separable(nn.Module):
    """A depthwise k x k convolution, then a pointwise 1x1; biased only where no batch normalisation follows."""

    def __init__(self, in_channels: int, out_channels: int, size: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, size, stride, size // 2, groups=in_channels, bias=bias)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pointwise(self.depthwise(x))
        return result


class ResidualBlock(nn.Module):
    """Sep-BN-PReLU-Sep-BN, plus its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Separable(width, width, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            Separable(width, width, 3, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


class SwiftSRGAN(nn.Module):
    """SwiftSRGAN's generator for x2 or x4."""

    def __init__(self, config: SwiftSRGANConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.Sequential(Separable(3, width, 9), nn.PReLU(width))
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks)))
        self.after_blocks = nn.Sequential(Separable(width, width, 3, bias=False), nn.BatchNorm2d(width))
        self.upsample = nn.Sequential(*(_upsample(width) for _ in range(config.scale.bit_length() - 1)))
        self.tail = Separable(width, 3, 9)

    def forward(self, rgb: Tensor) -> Tensor:
        """[N, 3, H, W] RGB float in 0..1 -> [N, 3, scale * H, scale * W] in 0..1; any H and W."""
        stem = self.stem(rgb)  # [N, 64, H, W]
        features = stem + self.after_blocks(self.blocks(stem))
        return (torch.tanh(self.tail(self.upsample(features))) + 1) / 2  # [N, 64, sH, sW] -> [N, 3, sH, sW]


def _upsample(width: int) -> nn.Sequential:
    return nn.Sequential(Separable(width, 4 * width, 3), nn.PixelShuffle(2), nn.PReLU(width))


class Discriminator(nn.Module):
    """SwiftSRGAN's discriminator: eight separable convolutions, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 64, 64, 128, 128, 256, 256, 512, 512)
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(pairwise(widths)):
            layers.append(Separable(before, after, 3, stride=1 + index % 2, bias=index == 0))
            layers += [nn.BatchNorm2d(after)] if index else []
            layers.append(nn.LeakyReLU(0.2))
        self.features = nn.Sequential(*layers)
        self.judge = nn.Sequential(
            nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(512 * 6 * 6, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1)
        )

    def forward(self, rgb: Tensor) -> Tensor:
        """[N, 3, H, W] RGB in 0..1 -> [N, 1]: the log-odds that a picture is real."""
        odds: Tensor = self.judge(self.features(rgb))  # [N, 512, H / 16, W / 16] -> [N, 1]
        return odds
