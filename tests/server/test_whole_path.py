"""`fourfold video` on awkward files: what must survive survives, what must be refused is refused in one line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from server.media.frames import read_picture
from tests.support.clips import write

VFR = [0, 1, 2, 5, 6, 9, 10, 11, 15, 16, 20, 24]


def upscale(source: Path, target: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", "video", str(source), str(target), "--json", *extra]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def probe(path: Path) -> Any:
    """What Debian's FFmpeg, which is not the one we write with, says of a file."""
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed; make test installs it")
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-show_chapters", "-show_format", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(p.pts * stream.time_base, bytes(p)) for p in container.demux(stream) if p.pts is not None]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_everything_around_the_picture_survives(tmp_path: Path, suffix: str) -> None:
    source = write(
        tmp_path / "in.mkv",
        time_base=Fraction(1, 12),
        pts=VFR,
        tone=True,
        subtitles=[(100, 400, "Hello"), (700, 300, "Goodbye")],
        chapters=[(0, 500, "One"), (500, 1000, "Two")],
        rotation=90,
        sample_aspect_ratio=Fraction(4, 3),
        metadata={"title": "A clip"},
        tags={"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1},
    )
    target = tmp_path / f"out{suffix}"
    result = upscale(source, target)
    assert result.returncode == 0, result.stderr
    told = probe(target)
    video = next(s for s in told["streams"] if s["codec_type"] == "video")
    assert (video["width"], video["height"], video["pix_fmt"]) == (192, 128, "yuv420p")
    assert (video["color_space"], video["color_primaries"], video["color_transfer"]) == ("bt709", "bt709", "bt709")
    assert video["sample_aspect_ratio"] == "4:3"
    assert abs(video["side_data_list"][0]["rotation"]) == 90
    assert [c["tags"]["title"] for c in told["chapters"]] == ["One", "Two"]
    assert told["format"]["tags"]["title"] == "A clip"
    assert {s["codec_type"] for s in told["streams"]} >= {"video", "audio", "subtitle"}
    assert [data for _, data in packets(source, "audio")] == [data for _, data in packets(target, "audio")]
    before, after = (sorted(time for time, _ in packets(path, "video")) for path in (source, target))
    assert all(abs((a - after[0]) - (b - before[0])) <= Fraction(1, 1000) for a, b in zip(after, before, strict=True))
    offsets = [packets(path, "audio")[0][0] - min(time for time, _ in packets(path, "video")) for path in (source, target)]
    assert abs(offsets[0] - offsets[1]) <= Fraction(2, 1000)


@pytest.mark.parametrize(("width", "height"), [(479, 269), (1, 1)])
def test_odd_sizes(tmp_path: Path, width: int, height: int) -> None:
    source = tmp_path / "odd.mkv"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("ffv1", rate=25, width=width, height=height)
        stream.pix_fmt = "yuv420p"
        for number in range(4):
            picture = np.full((height, width, 3), 60 + 30 * number, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")))
        output.mux(stream.encode(None))
    result = upscale(source, tmp_path / "out.mkv")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["frames_out"] == 4
    last = read_picture(tmp_path / "out.mkv", 3)
    assert last.shape == (4 * height, 4 * width, 3)
    assert np.abs(last.astype(int) - 150).mean() < 6


@pytest.mark.parametrize(("clip", "note"), [
    ({"pix_fmt": "yuvj420p", "tags": {"color_range": 2}}, None),
    ({"rotation": 180}, None),
    ({"pix_fmt": "yuv420p10le"}, "10"),
    ({"interlaced": True}, "deinterlaced"),
    ({"pix_fmt": "yuv444p"}, None),
], ids=["full range", "rotated", "10-bit", "interlaced", "4:4:4"])  # fmt: skip
def test_awkward_pictures(tmp_path: Path, clip: dict[str, Any], note: str | None) -> None:
    source, target = write(tmp_path / "in.mkv", **clip), tmp_path / "out.mp4"
    result = upscale(source, target)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["frames_out"] == 12
    assert note is None or note in result.stderr
    small, large = (read_picture(path, 6) for path in (source, target))
    if "interlaced" not in clip:
        averaged = large.reshape(small.shape[0], 4, small.shape[1], 4, 3).mean(axis=(1, 3))
        assert np.abs(averaged.mean(axis=2) - small.mean(axis=2)).mean() < 8
    if "tags" in clip:
        assert next(s for s in probe(target)["streams"] if s["codec_type"] == "video")["color_range"] == "pc"


def bad_source(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "bad.mp4"
    if kind == "directory":
        path.mkdir()
    elif kind == "truncated":
        path.write_bytes(write(path, frames=50).read_bytes()[:-600])
    elif kind == "truncated, index first":
        path.write_bytes(write(path, frames=50, container={"movflags": "faststart"}).read_bytes()[:-600])
    elif kind == "no frames":
        path.write_bytes(write(path, frames=2).read_bytes()[:40])
    elif kind == "HDR":
        write(path, tags={"color_trc": 16, "color_primaries": 9, "colorspace": 9, "color_range": 1})
    elif kind == "audio only":
        with av.open(str(path), "w") as output:
            tone = output.add_stream("aac", rate=48000)
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            frame.sample_rate = 48000
            output.mux([*tone.encode(frame), *tone.encode(None)])
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "directory", "truncated", "truncated, index first", "no frames", "HDR", "audio only"]
)
def test_refusals(tmp_path: Path, kind: str) -> None:
    source = bad_source(tmp_path, kind)
    before = set(tmp_path.iterdir())
    result = upscale(source, tmp_path / "out.mp4")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and "bad.mp4" in result.stderr
    assert set(tmp_path.iterdir()) == before


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mp4")
    for target in (tmp_path / "nowhere" / "out.mp4", Path("/proc/out.mp4"), tmp_path / "out.gif", source):
        result = upscale(source, target)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1 and str(target) in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds 40 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk; test_encode.py tests the same by a limit on file sizes")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_no_space_left(tmp_path: Path, full_disk: Path) -> None:
    source = write(tmp_path / "in.mp4", width=160, height=96)
    result = upscale(source, full_disk / "out.mp4", "--crf", "5")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and "no space left" in result.stderr
    assert list(full_disk.iterdir()) == []
