"""`squeeze_distance`: how different two pictures look to SqueezeNet 1.1, all feature channels weighted equally.

It is the unweighted baseline of Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(CVPR 2018, section 3), on another training of the backbone. It is not LPIPS: LPIPS weighs the channels by human judgements.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.evaluation.weights import load_weights
from models.resize import UInt8Image

SMALLEST = 20  # pixels a side, of which three poolings leave something
TAPS = (1, 4, 7, 9, 10, 11, 12)  # layers behind which LPIPS compares features: the first ReLU and six fires


class Fire(nn.Module):
    """A 1x1 convolution that squeezes channels, then 1x1 and 3x3 ones side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], dim=1))


class SqueezeDistance(nn.Module):
    """The distance of two batches of pictures; 0 for equal ones."""

    def __init__(self, weights: Path) -> None:
        """Args: weights: an .npz file with torchvision's names, for RGB in 0..1 (normalisation folded into the first layer).

        Raises:
            WeightsError: the file is missing, or is not of this network.
        """
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), _pool()]
        layers += [Fire(64, 16, 64), Fire(128, 16, 64), _pool()]
        layers += [Fire(128, 32, 128), Fire(256, 32, 128), _pool()]
        layers += [Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
        self.features = nn.Sequential(*layers)
        load_weights(self, weights)
        self.requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """[N, 3, H, W] RGB in 0..1, twice -> [N]: squared distances of unit feature vectors, averaged over positions, summed
        over layers."""
        total = torch.zeros(len(first), device=first.device)
        for index, layer in enumerate(self.features):
            first, second = layer(first), layer(second)
            if index in TAPS:
                difference = F.normalize(first, dim=1, eps=1e-10) - F.normalize(second, dim=1, eps=1e-10)
                total = total + difference.square().sum(1).mean((1, 2))
        return total

    @torch.no_grad()
    def of_images(self, first: UInt8Image, second: UInt8Image) -> float:
        """The distance of two [H, W, 3] uint8 RGB pictures of one size; NaN where a side is under 20 pixels."""
        if min(first.shape[:2]) < SMALLEST:
            return math.nan
        tensors = (torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1)[None])).float() / 255 for i in (first, second))
        return float(self(*tensors))


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
