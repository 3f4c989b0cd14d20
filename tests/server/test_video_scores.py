"""Scores of compressed clips: lower for stronger compression, better for better models; VMAF where it can be had."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.resize import downscale
from server import vmaf as vmaf_module
from server.cli import app
from server.media.frames import write_clip
from server.video_scores import ClipError, flicker, score_video
from server.vmaf import vmaf
from tests.support.frames import natural


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames of a picture that moves by three pixels a frame."""
    picture = downscale(natural(600, 700), 2)
    path = tmp_path_factory.mktemp("clips") / "moving.mp4"
    write_clip(path, (picture[3 * t : 3 * t + 256, 3 * t : 3 * t + 320] for t in range(6)), 30)
    return path


def test_compression_costs_and_networks_gain(clip: Path) -> None:
    scores = {(s.crf, s.model): s for s in score_video(clip, ["bicubic", "xlsr"], 4, [18, 38], frames=4, precision="fp32")}
    assert all(score.frames == 4 and score.clip == "moving.mp4" for score in scores.values())
    for model in ("bicubic", "xlsr"):
        assert scores[18, model].psnr_y > scores[38, model].psnr_y + 1
        assert scores[18, model].kilobits_per_second > 1.2 * scores[38, model].kilobits_per_second
    assert scores[18, "xlsr"].psnr_y > scores[18, "bicubic"].psnr_y


def test_flicker_is_what_moves_without_reason() -> None:
    random = np.random.default_rng(0)
    still = random.integers(0, 256, (8, 8), dtype=np.uint8)
    noisy = [random.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(5)]
    assert flicker([(still, still)] * 5) == 0
    assert flicker([(still + 0, np.full_like(still, 9))] * 5) == 0  # wrong, but steadily so
    assert flicker((frame, still) for frame in noisy) == pytest.approx(
        np.mean([np.abs(b.astype(int) - a).mean() for a, b in itertools.pairwise(noisy)])
    )


def test_vmaf_orders_pictures_or_says_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The development install brings an FFmpeg with libvmaf; without one there is no figure."""
    luma = natural(256, 320)[:, :, 1]
    chroma = np.full((128, 160), 128, np.uint8)
    truth = [(np.roll(luma, t, axis=1), chroma, chroma) for t in range(3)]
    blurred = [((np.roll(y, 3, axis=0) // 2 + y // 2).astype(np.uint8), u, v) for y, u, v in truth]
    equal, worse = vmaf(tmp_path, truth, truth), vmaf(tmp_path, blurred, truth)
    assert equal and worse and set(equal) == {"vmaf_v0.6.1", "vmaf_v0.6.1neg"}
    assert all(equal[name] > 95 > worse[name] + 10 for name in equal)
    monkeypatch.setattr(vmaf_module, "_ffmpeg_with_vmaf", lambda: None)
    assert vmaf(tmp_path, truth, truth) is None


def test_a_clip_too_small_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "tiny.mp4", [natural(40, 64)], 30)
    with pytest.raises(ClipError, match=r"tiny\.mp4 is too small .* needs 64 pixels a side"):
        list(score_video(tmp_path / "tiny.mp4", ["bicubic"], 4, [23], 1))


def test_the_command_prints_one_object(clip: Path) -> None:
    arguments = ["evaluate-video", str(clip), "--model", "bicubic", "--crf", "30", "--frames", "2", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (score,) = json.loads(result.stdout)["scores"]
    assert (score["crf"], score["frames"], score["model"]) == (30, 2, "bicubic") and math.isfinite(score["psnr_y"])
