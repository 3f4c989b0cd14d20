"""Plain interpolation scores what the literature prints for it; broken data is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.evaluation.protocol import EvaluationDataError, evaluate, read_rgb
from models.resize import downscale, upscale

LITERATURE = {  # PSNR-Y of bicubic interpolation in dB
    2: {"set5": 33.68, "set14": 30.33, "bsd100": 29.56},
    3: {"set5": 30.41, "set14": 27.64, "bsd100": 27.21},
    4: {"set5": 28.43, "set14": 26.09, "bsd100": 25.96},
}
CASES = [(scale, name, value) for scale, row in LITERATURE.items() for name, value in row.items()]


@pytest.mark.parametrize(("scale", "name", "expected"), CASES)
@pytest.mark.parametrize("published", [True, False], ids=["published-low", "own-low"])
def test_bicubic_is_the_literatures(data: Path, scale: int, name: str, expected: float, published: bool) -> None:
    low = data / f"test_lr_x{scale}" / name if published else None
    result = evaluate(lambda image: upscale(image, scale), scale, data / "test" / name, low)
    assert len(result.scores) == {"set5": 5, "set14": 14, "bsd100": 100}[name]
    assert result.psnr_y == pytest.approx(expected, abs=0.02)


def drawn(folder: Path, name: str, height: int, width: int) -> Path:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(height)
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_averages_over_pictures(tmp_path: Path) -> None:
    drawn(tmp_path, "b.png", 40, 41)
    drawn(tmp_path, "a.png", 33, 50)
    (tmp_path / "notes.txt").write_text("not a picture")
    result = evaluate(lambda image: upscale(image, 2), 2, tmp_path)
    assert [score.image for score in result.scores] == ["a.png", "b.png"]
    assert result.psnr_y == pytest.approx((result.scores[0].psnr_y + result.scores[1].psnr_y) / 2)
    assert result.ssim_y == pytest.approx((result.scores[0].ssim_y + result.scores[1].ssim_y) / 2)


def test_reads_the_given_low_resolution_files(tmp_path: Path) -> None:
    high = drawn(tmp_path / "high", "a.png", 40, 40)
    low = tmp_path / "low"
    low.mkdir()
    black = np.zeros_like(downscale(read_rgb(high / "a.png"), 4))
    Image.fromarray(black).save(low / "a.png")
    seen = []
    evaluate(lambda image: seen.append(image) or upscale(image, 4), 4, high, low)
    np.testing.assert_array_equal(seen[0], black)


def test_spreads_grey_pictures_over_three_channels(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 9), 70, np.uint8)).save(tmp_path / "grey.png")
    image = read_rgb(tmp_path / "grey.png")
    assert image.shape == (8, 9, 3)
    assert (image == 70).all()


def test_names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EvaluationDataError, match="nowhere is not a folder"):
        evaluate(lambda image: image, 4, tmp_path / "nowhere")


def test_names_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(EvaluationDataError, match=r"holds no picture .*\.png"):
        evaluate(lambda image: image, 4, tmp_path)


def test_names_a_missing_low_resolution_file(tmp_path: Path) -> None:
    high = drawn(tmp_path / "high", "a.png", 40, 40)
    with pytest.raises(EvaluationDataError, match=r"low.a\.png is missing"):
        evaluate(lambda image: upscale(image, 4), 4, high, tmp_path / "low")


def test_names_a_low_resolution_file_of_the_wrong_size(tmp_path: Path) -> None:
    high = drawn(tmp_path / "high", "a.png", 40, 44)
    low = drawn(tmp_path / "low", "a.png", 20, 22)
    with pytest.raises(EvaluationDataError, match=r"a\.png is 22x20.* needs 11x10"):
        evaluate(lambda image: upscale(image, 4), 4, high, low)


def test_does_not_judge_the_border(tmp_path: Path) -> None:
    drawn(tmp_path, "a.png", 40, 40)
    high = read_rgb(tmp_path / "a.png").copy()
    high[:4], high[-4:], high[:, :4], high[:, -4:] = 0, 0, 0, 0
    assert evaluate(lambda _: high, 4, tmp_path).psnr_y == float("inf")
