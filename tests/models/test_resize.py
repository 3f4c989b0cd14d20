"""The degradation and the baseline are the literature's."""

from pathlib import Path

import numpy as np
import pytest

from models.evaluation.protocol import read_rgb
from models.resize import crop_to_multiple, cubic, downscale, resize, upscale


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["set5", "set14", "bsd100"])
def test_reproduces_published_low_resolution_files_within_one_level(data: Path, name: str, scale: int) -> None:
    paths = sorted((data / "test" / name).glob("*.png"))
    assert len(paths) == {"set5": 5, "set14": 14, "bsd100": 100}[name]
    for path in paths:
        published = read_rgb(data / f"test_lr_x{scale}" / name / path.name)
        ours = downscale(read_rgb(path), scale)
        assert ours.shape == published.shape, path.name
        assert np.abs(ours.astype(int) - published).max() <= 1, path.name


def test_kernel_is_keys_with_minus_a_half() -> None:
    at = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
    np.testing.assert_allclose(cubic(at), [1, 0.5625, 0, -0.0625, 0, 0])
    np.testing.assert_array_equal(cubic(-at), cubic(at))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (5, 3)])
def test_a_flat_picture_stays_flat(scale: int, height: int, width: int) -> None:
    flat = np.full((height, width, 3), (255, 0, 77), np.uint8)
    large = upscale(flat, scale)
    assert large.shape == (height * scale, width * scale, 3)
    assert (large == (255, 0, 77)).all()
    np.testing.assert_array_equal(downscale(large, scale), flat)


def test_same_size_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (13, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(image, 13, 7), image)


def test_rounds_halves_up() -> None:
    pair = np.array([[[0], [1]]], np.uint8)
    assert resize(pair, 1, 1).item() == 1  # the mean, 0.5


def test_crops_the_bottom_right() -> None:
    image = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9, 1)
    np.testing.assert_array_equal(crop_to_multiple(image, 4), image[:4, :8])
    assert downscale(image, 4).shape == (1, 2, 1)
