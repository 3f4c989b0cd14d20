"""Training pictures: what is used, what is left out, what a batch is made of."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.resize import downscale
from models.training.config import CompressionConfig
from models.training.data import TrainingData
from tests.support.frames import natural
from tests.support.runs import TINY, draw_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return draw_pictures(tmp_path / "train")


def test_splits_training_from_validation(pictures: Path) -> None:
    data = TrainingData(pictures, TINY.data, 2)
    assert len(data.validation) == 1
    assert [pair.high.shape[:2] for pair in data.training.pairs] == [(36, 50), (18, 26), (64, 32), (32, 16)]
    for pair in (*data.training.pairs, *data.validation):
        np.testing.assert_array_equal(pair.low, downscale(pair.high, 2))


def test_a_batch_depends_on_its_seed_alone(pictures: Path) -> None:
    data, again = (TrainingData(pictures, TINY.data, 2) for _ in range(2))
    data.batch(3, (1, 0))
    low, high = data.batch(3, (1, 5))
    low_again, high_again = again.batch(3, (1, 5))
    np.testing.assert_array_equal(low, low_again)
    np.testing.assert_array_equal(high, high_again)
    assert not np.array_equal(low, data.batch(3, (1, 6))[0])
    assert not np.array_equal(low, data.batch(3, (2, 5))[0])


def test_a_batch_is_crops_in_nought_to_one(pictures: Path) -> None:
    low, high = TrainingData(pictures, TINY.data, 2).batch(4, (1, 0))
    assert low.shape == (4, 3, 8, 8) and high.shape == (4, 3, 16, 16)
    assert low.dtype == high.dtype == np.float32
    assert low.min() >= 0 and high.max() <= 1 and high.max() > 0.2


def test_both_sides_of_a_crop_show_the_same(tmp_path: Path) -> None:
    """A ramp's low-resolution crop is its high-resolution one averaged, whichever way it was turned or darkened."""
    across, down = np.meshgrid(np.arange(64), np.arange(64))
    Image.fromarray(np.stack([across * 4, down * 4, across + down], axis=-1).astype(np.uint8)).save(tmp_path / "1.png")
    Image.fromarray(natural(64, 64)).save(tmp_path / "0.png")  # held out
    low, high = TrainingData(tmp_path, replace(TINY.data, validation_every=2, rescale=[1.0]), 2).batch(32, (1, 0))
    averaged = high.reshape(32, 3, 8, 2, 8, 2).mean(axis=(3, 5))
    assert np.abs(low - averaged).max() < 0.02
    assert len({tuple(np.sign(np.diff(crop[:2], axis=axis)).mean((1, 2))) for crop in low for axis in (1,)}) >= 4


def test_broken_and_small_pictures_are_counted_and_left_out(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = (pictures / "1.png").read_bytes()
    (pictures / "a-empty.png").write_bytes(b"")
    (pictures / "b-text.webp").write_text("not a picture")
    (pictures / "c-cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(natural(15, 90)).save(pictures / "d-small.png")
    (pictures / "notes.txt").write_text("not meant to be one")
    with caplog.at_level(logging.WARNING):
        data = TrainingData(pictures, TINY.data, 2)
    assert len(data.validation) == 1 and len(data.training.pairs) == 4
    assert "4 pictures left out" in caplog.text
    for name in ("a-empty.png", "b-text.webp", "c-cut.png", "d-small.png (smaller than 16 pixels)"):
        assert name in caplog.text
    assert "notes" not in caplog.text


def test_a_folder_without_usable_pictures_is_refused(tmp_path: Path) -> None:
    Image.fromarray(natural(15, 15)).save(tmp_path / "small.png")
    with pytest.raises(FileNotFoundError, match="holds no picture of 16 pixels a side or more to hold out"):
        TrainingData(tmp_path, TINY.data, 2)


def test_a_share_of_the_crops_and_all_validation_is_compressed(tmp_path: Path) -> None:
    """A live run's crops: half of them differ from what the evaluation's resize makes of their high side."""
    for index in range(3):
        Image.fromarray(natural(120, 120, seed=index)).save(tmp_path / f"{index}.png")
    compression = CompressionConfig(share=0.5, versions=1, crf=[30, 35], presets=["veryfast"])
    data = TrainingData(tmp_path, replace(TINY.data, rescale=[1.0], intensity=[1.0]), 2, compression)
    assert len(data.validation) == 2 and len(data.compressed.pairs) == 4 and len(data.training.pairs) == 2
    assert not any(np.array_equal(pair.low, downscale(pair.high, 2)) for pair in data.validation)
    low, high = data.batch(64, (1, 0))
    made = np.stack([downscale((image * 255).round().astype(np.uint8).transpose(1, 2, 0), 2) for image in high])
    error = np.abs((low * 255).transpose(0, 2, 3, 1) - made)[:, 2:-2, 2:-2].mean((1, 2, 3))  # inside: borders see no neighbours
    assert 16 <= np.sum(error > 1) <= 48


def test_batches_go_on_where_a_run_stopped(pictures: Path) -> None:
    data = TrainingData(pictures, TINY.data, 2)
    ahead = data.batches(3, seed=1, first=5)
    for number in (5, 6, 7):
        for made, expected in zip(next(ahead), data.batch(3, (1, number)), strict=True):
            np.testing.assert_array_equal(made, expected)
    ahead.close()


def test_all_stages_hold_out_the_same_pictures(tmp_path: Path) -> None:
    """Whatever a run's crop or scale: what one stage is judged by, no other may have been trained on."""
    for index, side in enumerate([40, 90, 36, 64, 120, 48, 70, 100]):
        Image.fromarray(natural(side, side, seed=index)).save(tmp_path / f"{index}.png")
    config = replace(TINY.data, validation_every=3, validation_side=48, rescale=[1.0])
    runs = [TrainingData(tmp_path, replace(config, crop=crop), scale) for crop, scale in ((8, 2), (16, 2), (16, 4))]
    for data in runs:
        assert [pair.high.shape[0] for pair in data.validation] == [90, 48] or data.scale == 4
    assert [pair.high.shape[0] for pair in runs[2].validation] == [88, 48]
    assert [len(data.training.pairs) for data in runs] == [6, 6, 4]
