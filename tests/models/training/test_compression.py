"""Compressed training pairs: both sides show the same, and the low one has lost what H.264 loses."""

from dataclasses import replace

import numpy as np

from models.evaluation.metrics import psnr_y
from models.resize import downscale
from models.training.compression import compressed_pairs, through_h264
from models.training.config import CompressionConfig
from tests.support.frames import natural

CONFIG = CompressionConfig(share=0.5, versions=2, crf=[18, 20], presets=["veryfast", "medium"])


def loss(config: CompressionConfig, seed: int = 0) -> float:
    """PSNR-Y of the compressed low-resolution sides against clean ones, mean over the kept frames."""
    pairs = compressed_pairs(natural(160, 176), 2, config, np.random.default_rng(seed))
    return float(np.mean([psnr_y(pair.low, downscale(pair.high, 2), 0) for pair in pairs]))


def test_both_sides_show_the_same() -> None:
    for seed in range(4):  # motion in all directions
        assert loss(CONFIG, seed) > 30


def test_a_higher_rate_factor_loses_more() -> None:
    assert loss(replace(CONFIG, crf=[34, 34])) < loss(CONFIG) - 5


def test_pairs_are_repeatable_and_of_whole_chroma_samples() -> None:
    first, second = (compressed_pairs(natural(161, 178), 3, CONFIG, np.random.default_rng(1)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.low, other.low)
        np.testing.assert_array_equal(one.high, other.high)
        assert one.low.shape[0] % 2 == one.low.shape[1] % 2 == 0
        assert one.high.shape == (3 * one.low.shape[0], 3 * one.low.shape[1], 3)


def test_a_picture_too_small_to_pan_over_gives_none() -> None:
    assert compressed_pairs(natural(60, 200), 2, CONFIG, np.random.default_rng(0)) == []


def test_every_frame_comes_back_in_order() -> None:
    frames = [np.full((32, 48, 3), 20 * index, np.uint8) for index in range(8)]
    decoded = through_h264(frames, {"crf": "18", "preset": "medium"})  # with B-frames
    assert [round(float(frame.mean()) / 20) for frame in decoded] == list(range(8))
