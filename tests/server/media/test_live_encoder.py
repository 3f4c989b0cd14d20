"""H.264 for live streams: what comes out is what was asked for, and our decoder takes it."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from engines.runner import Plane
from server.media import _tags
from server.media.errors import DimensionsError, EncoderError, HdrError, UnreadableError
from server.media.live_decoder import LiveDecoder
from server.media.live_encoder import LiveEncoder, LiveVideo, choose_live, usual_bitrate
from server.media.live_picture import FrameLimits
from tests.support import clips

WIDTH, HEIGHT, FPS = 320, 240, 30
TAGS = _tags.Tags(1, 1, 1, 1)
LIMITS = FrameLimits(4, 1 << 22, 1 << 26)


def video(**other: object) -> LiveVideo:
    values = {"width": WIDTH, "height": HEIGHT, "fps": FPS, "tags": TAGS, "encoder": "libx264", "bitrate": 800_000}
    return LiveVideo(**(values | {"keyframe_seconds": 1.0} | other))  # type: ignore[arg-type]


def noise(number: int) -> Plane:
    """A picture that does not compress well, another one each time."""
    return np.random.default_rng(number).integers(16, 235, (HEIGHT * 3 // 2, WIDTH), np.uint8)


def slope(number: int) -> Plane:
    plane = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    plane[:HEIGHT] = (np.arange(WIDTH) // 2 + number) % 220 + 16
    return plane


def test_pictures_come_back_at_once_one_by_one_and_look_the_same() -> None:
    encoder = LiveEncoder(video(bitrate=4_000_000))
    decoder = LiveDecoder(encoder.configuration, False, LIMITS)
    for number in range(10):
        encoded = encoder.encode(slope(number), 33 * number, False)
        ((found, picture),) = decoder.decode(number, encoded.data)
        planes = (np.empty((HEIGHT, WIDTH), np.uint8), *(np.empty((HEIGHT // 2, WIDTH // 2), np.uint8) for _ in "uv"))
        picture.fill(planes)
        assert found == number
        assert np.abs(planes[0].astype(int) - slope(number)[:HEIGHT]).mean() < 4
    assert (picture.shape.width, picture.shape.height, picture.shape.tags) == (WIDTH, HEIGHT, TAGS)
    assert decoder.fps == FPS


def test_the_rate_is_constant_for_hard_pictures_and_for_easy_ones() -> None:
    for pictures in (noise, slope):
        encoder = LiveEncoder(video())
        sizes = [len(encoder.encode(pictures(number), number * 1000 // FPS, False).data) for number in range(5 * FPS)]
        assert 8 * sum(sizes[FPS:]) / 4 == pytest.approx(800_000, rel=0.15)


def test_no_picture_needs_parameter_sets_before_its_slices() -> None:
    """Who cuts the stream into files puts them there; SEI of a buffering period (0) or of timing (1) would be too early."""
    encoder = LiveEncoder(video())
    for number in range(3):
        data = encoder.encode(slope(number), 33 * number, False).data
        while data:
            size = int.from_bytes(data[:4], "big")
            assert data[4] & 0x1F != 6 or data[5] not in (0, 1)
            data = data[4 + size :]


def test_a_keyframe_comes_when_it_is_time_or_asked_for() -> None:
    encoder = LiveEncoder(video())
    keys = [number for number in range(70) if encoder.encode(slope(number), 33 * number, number == 40).keyframe]
    assert keys == [0, 31, 40, 71][:3]


def test_the_last_picture_can_be_shown_again_when_its_memory_is_used_for_another() -> None:
    encoder, picture = LiveEncoder(video(bitrate=4_000_000)), slope(0)
    decoder = LiveDecoder(encoder.configuration, False, LIMITS)
    decoder.decode(0, encoder.encode(picture, 0, False).data)
    picture[...] = 16
    ((_, again),) = decoder.decode(1, encoder.repeat(33, False).data)
    planes = (np.empty((HEIGHT, WIDTH), np.uint8), *(np.empty((HEIGHT // 2, WIDTH // 2), np.uint8) for _ in "uv"))
    again.fill(planes)
    assert np.abs(planes[0].astype(int) - slope(0)[:HEIGHT]).mean() < 4


def test_the_usual_bitrate_grows_with_the_picture_but_less() -> None:
    assert usual_bitrate(1920, 1080, 30) == 6_000_000
    assert 2 * usual_bitrate(1920, 1080, 30) > usual_bitrate(1920, 1080, 60) > usual_bitrate(1920, 1080, 30)


def test_an_encoder_that_rtmp_does_not_carry_is_refused_and_those_it_does_are_named() -> None:
    with pytest.raises(EncoderError, match=r"libx265.*libx264"):
        choose_live("libx265")


def test_damage_is_told_and_the_next_keyframe_is_decoded() -> None:
    encoder = LiveEncoder(video())
    decoder = LiveDecoder(encoder.configuration, False, LIMITS)
    with pytest.raises(UnreadableError):
        decoder.decode(0, b"\x00\x00\x00\x08" + b"\x65" + bytes(7))
    ((number, _),) = decoder.decode(1, encoder.encode(slope(0), 0, False).data)
    assert number == 1


def test_a_picture_beyond_the_limit_is_refused_by_its_size() -> None:
    encoder = LiveEncoder(video())
    decoder = LiveDecoder(encoder.configuration, False, FrameLimits(4, 100 * 100, 1 << 26))
    with pytest.raises(DimensionsError, match="320x240"):
        decoder.decode(0, encoder.encode(slope(0), 0, False).data)


def test_hdr_is_refused() -> None:
    encoder = LiveEncoder(video(tags=_tags.Tags(9, 9, 16, 1)))
    decoder = LiveDecoder(encoder.configuration, False, LIMITS)
    with pytest.raises(HdrError, match="PQ"):
        decoder.decode(0, encoder.encode(slope(0), 0, False).data)


def test_a_configuration_that_is_none_is_unreadable() -> None:
    with pytest.raises(UnreadableError, match="configuration"):
        LiveDecoder(b"nothing", False, LIMITS)


def test_interlaced_pictures_are_deinterlaced_one_for_one_each_one_later(tmp_path: Path) -> None:
    units = access_units(tmp_path / "clip.h264", interlaced=True)
    decoder = LiveDecoder(None, False, LIMITS)
    found = [[number for number, _ in decoder.decode(number, unit)] for number, unit in enumerate(units)]
    assert found == [[], *([number] for number in range(len(units) - 1))]
    assert [number for number, _ in decoder.flush()] == [len(units) - 1]
    assert decoder.deinterlaces


def test_what_follows_interlaced_pictures_may_have_another_size(tmp_path: Path) -> None:
    units = [
        unit for width in (48, 96) for unit in access_units(tmp_path / f"{width}.h264", interlaced=True, width=width, height=64)
    ]
    decoder = LiveDecoder(None, False, LIMITS)
    shown = [picture for number, unit in enumerate(units) for picture in decoder.decode(number, unit)] + decoder.flush()
    assert [number for number, _ in shown] == list(range(24))
    assert [picture.shape.width for _, picture in shown] == [48] * 12 + [96] * 12


def access_units(path: Path, **changes: Any) -> list[bytes]:
    """Of a small clip in Annex B."""
    with av.open(clips.write(path, format="h264", options={"tune": "zerolatency"}, **changes)) as source:
        return [bytes(packet) for packet in source.demux(video=0) if packet.size]
