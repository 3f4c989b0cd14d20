"""MobileNetV2's features, of which SwiftSRGAN's content loss is made.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2; TensorFlow's padding.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from models.evaluation.weights import load_weights

# expansion, channels, repeats, stride of the first repeat (table 2)
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
USED = 16  # blocks: SwiftSRGAN compares the output of the 16th (section III-D)


class InvertedResidual(nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down; plus its input where the shape allows. Batch normalisation is folded in."""

    def __init__(self, before: int, after: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = before * expansion
        self.stride, self.residual = stride, stride == 1 and before == after
        depthwise = nn.Conv2d(width, width, 3, stride, padding=1 if stride == 1 else 0, groups=width)
        self.conv = nn.Sequential()
        if expansion > 1:
            self.conv.append(nn.Sequential(nn.Conv2d(before, width, 1)))
        self.conv.append(nn.Sequential(depthwise))
        self.conv.append(nn.Conv2d(width, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        *inner, project = self.conv
        for layer in inner:
            last = layer is inner[-1]
            y = F.relu6(layer(_padded(y) if last and self.stride == 2 else y))
        projected: Tensor = project(y)
        return x + projected if self.residual else projected


class MobileNetV2Features(nn.Module):
    """MobileNetV2 up to its 16th block, frozen."""

    def __init__(self, weights: Path, taps: Sequence[int]) -> None:
        """Args:
        weights: an .npz file with torchvision's names, batch normalisation folded, for RGB in -1..1.
        taps: the blocks whose outputs are features, from 1 to 16; 0 is the layer before the first.

        Raises:
            WeightsError: the file is missing, or is not of this network.
        """
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 32, 3, stride=2))]
        channels = 32
        for expansion, after, repeats, stride in BLOCKS:
            for index in range(repeats):
                layers.append(InvertedResidual(channels, after, expansion, stride if index == 0 else 1))
                channels = after
        self.features, self.taps = nn.Sequential(*layers[: USED + 1]), tuple(taps)
        load_weights(self, weights)
        self.requires_grad_(False)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """[N, 3, H, W] RGB in 0..1 -> the features of each tap; block 16 gives [N, 160, H / 32, W / 32]."""
        stem, *blocks = self.features
        outputs = [F.relu6(stem(_padded(rgb * 2 - 1)))]
        for block in blocks:
            outputs.append(block(outputs[-1]))
        return [outputs[tap] for tap in self.taps]


def _padded(x: Tensor) -> Tensor:
    """TensorFlow pads a 3x3 convolution of stride 2 on even sizes at the right and at the bottom only."""
    return F.pad(x, (0, 1, 0, 1))
