"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest

from models.evaluation.metrics import luma, psnr, psnr_y, shave, ssim


def picture(*colour: int, side: int = 12) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [((0, 0, 0), 16.0), ((255, 255, 255), 235.0), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553), ((0, 0, 255), 40.966)],
)
def test_luma_is_bt601_unrounded(colour: tuple[int, int, int], expected: float) -> None:
    np.testing.assert_allclose(luma(picture(*colour)), expected)


def test_psnr_of_a_constant_difference() -> None:
    plane = np.zeros((4, 6))
    assert psnr(plane, plane + 1) == pytest.approx(48.1308, abs=1e-4)  # 20 log10 255
    assert psnr(plane, plane + 25.5) == pytest.approx(20)


def test_psnr_averages_squares_before_the_logarithm() -> None:
    second = np.zeros((1, 4))
    second[0, 0] = 2  # mean square 1
    assert psnr(np.zeros((1, 4)), second) == pytest.approx(48.1308, abs=1e-4)


def test_equal_planes_have_infinite_psnr() -> None:
    assert psnr(np.ones((3, 3)), np.ones((3, 3))) == math.inf


def test_psnr_y_does_not_look_at_the_border() -> None:
    first, second = picture(90, 90, 90), picture(90, 90, 90)
    second[:2], second[:, -2:] = 255, 0
    assert psnr_y(first, second, border=2) == math.inf
    assert psnr_y(first, second, border=1) < 30


def test_psnr_y_of_one_grey_level() -> None:
    step = 219 / 255  # a grey level in luma
    assert psnr_y(picture(9, 9, 9), picture(10, 10, 10), border=4) == pytest.approx(48.1308 - 20 * math.log10(step), abs=1e-4)


def test_shave_of_nothing_keeps_everything() -> None:
    plane = np.arange(12.0).reshape(3, 4)
    assert shave(plane, 0).shape == (3, 4)
    assert shave(plane, 1).shape == (1, 2)


def test_ssim_of_equal_planes_is_one() -> None:
    plane = np.random.default_rng(0).uniform(16, 235, (20, 17))
    assert ssim(plane, plane) == pytest.approx(1)


def test_ssim_of_flat_planes_is_the_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)  # variances are nought
    assert ssim(np.full((11, 15), 100.0), np.full((11, 15), 120.0)) == pytest.approx(expected)


def test_ssim_of_one_window() -> None:
    random = np.random.default_rng(3)
    a, b = random.uniform(0, 255, (2, 11, 11))
    line = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window = np.outer(line, line) / line.sum() ** 2
    mean_a, mean_b = (window * a).sum(), (window * b).sum()
    var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
    covariance = (window * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = 6.5025, 58.5225
    expected = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    assert ssim(a, b) == pytest.approx(expected)


def test_ssim_of_planes_smaller_than_the_window_is_not_a_number() -> None:
    assert math.isnan(ssim(np.zeros((10, 30)), np.zeros((10, 30))))
