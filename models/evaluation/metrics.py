"""Picture metrics on the luma of uint8 RGB images, as the super-resolution literature computes them."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from models.resize import UInt8Image

Value = TypeVar("Value", bound=np.generic)

Luma = npt.NDArray[np.float64]
"""[height, width], 16..235 (BT.601)."""


def luma(image: UInt8Image) -> Luma:
    """BT.601 luma of `image` [H, W, 3] uint8 RGB, unrounded: Y = 65.481 R + 128.553 G + 24.966 B + 16."""
    return image.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255) + 16


def psnr(first: Luma, second: Luma) -> float:
    """Peak signal-to-noise ratio in dB against a peak of 255; infinite where both are equal."""
    error = float(np.mean((first - second) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def shave(image: npt.NDArray[Value], border: int) -> npt.NDArray[Value]:
    """`image` [H, W, ...] without `border` pixels on each side: networks are not judged on what they cannot see."""
    return image[border:-border, border:-border] if border else image


def psnr_y(first: UInt8Image, second: UInt8Image, border: int) -> float:
    """PSNR in dB on luma of two [H, W, 3] uint8 RGB images, `border` pixels cropped on each side."""
    return psnr(shave(luma(first), border), shave(luma(second), border))


def ssim(first: Luma, second: Luma) -> float:
    """Structural similarity of two planes, 11x11 Gaussian window of sigma 1.5, without borders (Wang et al., 2004).

    Planes smaller than the window give NaN.
    """
    mean_a, mean_b = _blur(first), _blur(second)
    variance_a = _blur(first * first) - mean_a * mean_a
    variance_b = _blur(second * second) - mean_b * mean_b
    covariance = _blur(first * second) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a * mean_a + mean_b * mean_b + c1) * (variance_a + variance_b + c2)
    )
    return float(np.mean(similarity)) if similarity.size else float("nan")


def _blur(plane: Luma) -> Luma:
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    for _ in range(2):  # rows, then columns
        lines = max(0, len(plane) - 10)
        blurred = np.zeros((lines, plane.shape[1]))
        for offset, weight in enumerate(window):
            blurred += weight * plane[offset : offset + lines]
        plane = blurred.T
    return plane
