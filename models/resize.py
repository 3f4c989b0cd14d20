"""MATLAB-style bicubic resizing of uint8 images: the degradation that super-resolution papers train and test on.

Knows nothing of networks. The low-resolution files published with Set5, Set14 and BSD100 are reproduced within one level.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

UInt8Image = npt.NDArray[np.uint8]
"""[height, width, channels], RGB or a single channel, 0..255."""

A = -0.5
"""The free coefficient of the cubic kernel (Keys 1981); OpenCV's -0.75 gives other figures."""


def cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The cubic convolution kernel at distances `x` in pixels (Keys, "Cubic Convolution Interpolation", 1981)."""
    x = np.abs(x)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=256)
def _taps(length: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Source positions and weights, both [taps, target], of a line of `length` pixels resized to `target`."""
    scale = target / length
    stretch = min(scale, 1.0)  # a kernel as wide as the output pixel is what prevents aliasing
    support = 4 / stretch
    centre = (np.arange(target) + 0.5) / scale - 0.5
    first = np.ceil(centre - support / 2).astype(np.intp)
    positions = first + np.arange(int(np.ceil(support)) + 1)[:, None]
    weights = cubic((centre - positions) * stretch)
    weights /= weights.sum(axis=0)
    used = np.any(np.abs(weights) > 1e-12, axis=1)
    return np.clip(positions[used], 0, length - 1), weights[used].astype(np.float32)


def _resize_rows(image: UInt8Image, target: int) -> UInt8Image:
    positions, weights = _taps(image.shape[0], target)
    total = np.zeros((target, *image.shape[1:]), np.float32)
    for row, weight in zip(positions, weights, strict=True):
        total += weight[:, None, None] * image[row]
    # Halves go up, as MATLAB rounds; a thousandth absorbs the float32 sum's own error.
    return np.clip(np.floor(total + 0.5 + 1e-3), 0, 255).astype(np.uint8)


def resize(image: UInt8Image, height: int, width: int) -> UInt8Image:
    """Resizes `image` [H, W, C] uint8 to [height, width, C] with an antialiased bicubic kernel.

    Edge pixels are replicated; rows come first; the result of each of the two passes is rounded to uint8. All three are
    needed to reproduce the published low-resolution files.
    """
    rows = _resize_rows(image, height)
    return np.ascontiguousarray(_resize_rows(rows.swapaxes(0, 1), width).swapaxes(0, 1))


def downscale(image: UInt8Image, scale: int) -> UInt8Image:
    """Crops `image` [H, W, C] to a multiple of `scale` (top left) and makes it `scale` times smaller."""
    image = crop_to_multiple(image, scale)
    return resize(image, image.shape[0] // scale, image.shape[1] // scale)


def upscale(image: UInt8Image, scale: int) -> UInt8Image:
    """Makes `image` [H, W, C] `scale` times larger: the baseline that every network is compared with."""
    return resize(image, image.shape[0] * scale, image.shape[1] * scale)


def crop_to_multiple(image: UInt8Image, multiple: int) -> UInt8Image:
    """The largest top-left part of `image` [H, W, C] whose sides are multiples of `multiple`."""
    height, width = (side - side % multiple for side in image.shape[:2])
    return image[:height, :width]
