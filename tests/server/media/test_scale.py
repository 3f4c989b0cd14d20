"""Interpolation by swscale: the pictures of a stream that has no engine."""

import numpy as np
import pytest
from PIL import Image

from engines.runner import output_shapes
from server.media.scale import Bicubic
from tests.support.engines import picture_planes
from tests.support.frames import natural


@pytest.mark.parametrize(("height", "width", "scale"), [(48, 64, 4), (37, 51, 3), (24, 33, 2)])
def test_rgb_is_interpolated_as_others_do_it(height: int, width: int, scale: int) -> None:
    rgb = natural(height, width)
    large = np.zeros((height * scale, width * scale, 3), np.uint8)
    Bicubic("rgb", scale).upscale((rgb,), (large,))
    expected = np.asarray(Image.fromarray(rgb).resize((width * scale, height * scale), Image.Resampling.BICUBIC))
    assert np.abs(large.astype(int) - expected).mean() < 1


@pytest.mark.parametrize(("height", "width", "scale"), [(48, 64, 4), (37, 51, 3), (25, 33, 2)])
def test_yuv_keeps_its_planes_apart(height: int, width: int, scale: int) -> None:
    inputs = picture_planes("yuv420", height, width)
    outputs = tuple(np.zeros(shape, np.uint8) for shape in output_shapes("yuv420", scale, height, width))
    Bicubic("yuv420", scale).upscale(inputs, outputs)
    for small, large in zip(inputs, outputs, strict=True):
        rows, columns = (
            np.minimum(np.arange(size) // scale, limit - 1) for size, limit in zip(large.shape, small.shape, strict=True)
        )
        assert np.abs(large.astype(int) - small[rows][:, columns]).mean() < 12
        assert abs(float(large.mean()) - float(small.mean())) < 2
