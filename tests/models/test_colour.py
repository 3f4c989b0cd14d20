"""Colour coefficients against the values of the standards."""

from typing import get_args

import numpy as np
import pytest

from models.colour import Colour, Matrix, Range, untagged

ALL = [Colour(matrix, span) for matrix in get_args(Matrix) for span in get_args(Range)]


def codes(colour: Colour, *rgb: float) -> np.ndarray:
    return colour.rgb_to_yuv() @ np.array([*rgb, 1], np.float32)


@pytest.mark.parametrize("colour", ALL, ids=str)
def test_there_and_back_is_the_same_colour(colour: Colour) -> None:
    rgb = np.random.default_rng(0).uniform(0, 1, (3, 100))
    there = colour.rgb_to_yuv() @ np.vstack([rgb, np.ones(100)])
    back = colour.yuv_to_rgb() @ np.vstack([there, np.ones(100)])
    np.testing.assert_allclose(back, rgb, atol=1e-5)


@pytest.mark.parametrize("colour", ALL, ids=str)
def test_greys_have_no_chroma(colour: Colour) -> None:
    black, white = (16, 235) if colour.range == "limited" else (0, 255)
    np.testing.assert_allclose(codes(colour, 0, 0, 0), [black, 128, 128], atol=1e-4)
    np.testing.assert_allclose(codes(colour, 1, 1, 1), [white, 128, 128], atol=1e-4)


@pytest.mark.parametrize(
    ("colour", "rgb", "expected"),
    [
        (Colour("bt709", "limited"), (1, 1, 1), (235, 128, 128)),
        (Colour("bt709", "limited"), (1, 0, 0), (63, 102, 240)),
        (Colour("bt709", "limited"), (0, 1, 0), (173, 42, 26)),
        (Colour("bt709", "limited"), (0, 0, 1), (32, 240, 118)),
        (Colour("bt601", "limited"), (1, 0, 0), (81, 90, 240)),
        (Colour("bt601", "limited"), (0, 1, 0), (145, 54, 34)),
        (Colour("bt601", "full"), (0, 0, 1), (29, 255.5, 107)),
        (Colour("bt2020", "limited"), (0, 0, 1), (29, 240, 119)),
    ],
    ids=str,
)
def test_primaries(colour: Colour, rgb: tuple[float, float, float], expected: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(codes(colour, *rgb), expected, atol=0.5)


def test_untagged_frames_are_bt709_from_720_lines() -> None:
    assert untagged(719) == Colour("bt601", "limited")
    assert untagged(720) == Colour("bt709", "limited")
