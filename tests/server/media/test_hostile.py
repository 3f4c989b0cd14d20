"""Files made to do harm: to read what is not theirs, to call home, to take for ever."""

import struct
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from server.media.decode import MAX_STREAMS, VideoSource
from server.media.errors import ContainerError, DimensionsError, UnsupportedError
from server.videos import VideoLimits, VideoOptions, check_video, upscale_video
from tests.support import clips
from tests.support.hostile import PLAYLISTS, SECRET, canary, playlist, with_streams


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_open_nothing(tmp_path: Path, name: str) -> None:
    local = clips.write(tmp_path / f"{SECRET}.mp4")
    fake = tmp_path / "video.mp4"
    with canary() as (port, seen):
        fake.write_bytes(playlist(name, local, port))
        started = time.monotonic()
        with pytest.raises(ContainerError, match="not a supported container") as caught:
            VideoSource(fake)
        assert time.monotonic() - started < 1
    assert seen == []
    assert SECRET not in caught.value.problem and str(tmp_path) not in caught.value.problem


@pytest.mark.parametrize("streams", [MAX_STREAMS, 3000, 20000])
def test_thousands_of_streams_are_refused_at_once(tmp_path: Path, streams: int) -> None:
    path = with_streams(tmp_path / "clip.mp4", streams)
    started = time.monotonic()
    with pytest.raises(UnsupportedError, match=f"more than {MAX_STREAMS} streams"):
        VideoSource(path)
    assert time.monotonic() - started < 5


def test_some_more_streams_are_left_out(tmp_path: Path) -> None:
    with VideoSource(with_streams(tmp_path / "clip.mp4", 20)) as source:
        assert source.notes == ["20 further video stream(s) left out"]


def check(path: Path, **limits: Any) -> None:
    """Looks at a file as the service does; nothing may be left."""
    before = set(path.parent.iterdir())
    try:
        check_video(path, path.with_name("out.mp4"), VideoOptions("bicubic", 2), VideoLimits(**limits))
    finally:
        assert set(path.parent.iterdir()) == before


def test_a_video_that_says_it_is_endless_is_refused(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mkv", frames=2, time_base=Fraction(1, 1000), pts=[0, 10**9])
    with pytest.raises(UnsupportedError, match=r"it lasts 1000000\.1 s, at most 86400 s"):
        check(path, seconds=86400)


def test_a_video_that_lies_about_its_length_is_stopped(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mkv", frames=12, time_base=Fraction(1, 1000), pts=[n * 10_000 for n in range(12)])
    data = bytearray(path.read_bytes())
    place = data.index(b"\x44\x89\x88") + 3  # Duration, eight bytes
    data[place : place + 8] = struct.pack(">d", 900.0)
    path.write_bytes(data)
    check(path, seconds=60)
    with pytest.raises(UnsupportedError, match=r"it lasts 70\.0 s"):
        upscale_video(
            path, tmp_path / "out.mp4", VideoOptions("bicubic", 2, "openvino", "fp32"), print, limits=VideoLimits(seconds=60)
        )
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("size", "limits", "message"),
    [
        ((2, 2), {"side": 16}, "its picture is 2x2; at least 16 pixels"),
        ((160, 96), {"pixels": 15359}, "its picture is 160x96; at most 15359 pixels"),
        ((160, 96), {"output_pixels": 61439}, "the result would be 320x192; at most 61439 pixels"),
    ],
)
def test_sizes_beyond_the_limits_are_refused(
    tmp_path: Path, size: tuple[int, int], limits: dict[str, int], message: str
) -> None:
    path = clips.write(tmp_path / "clip.mp4", width=size[0], height=size[1], frames=2)
    check(path)
    with pytest.raises(DimensionsError, match=message):
        check(path, **limits)
