"""FLV tags: what is written can be read, by us and by FFmpeg; what is no FLV is said to be none."""

import io

import av
import numpy as np
import pytest

from server.media import _tags, flv
from server.media.errors import UnreadableError, UnsupportedError
from server.media.live_encoder import LiveEncoder, LiveVideo


def test_tags_come_back_as_they_were_however_the_bytes_are_cut() -> None:
    tags = [(flv.TagKind.AUDIO, 5, b"\xaf\x01abc"), (flv.TagKind.VIDEO, (1 << 24) + 7, b"\x17\x01" + bytes(300))]
    stream = flv.file_header() + b"".join(flv.tag(*tag) for tag in tags)
    for step in (1, 7, 1000):
        reader = flv.Reader()
        found = [tag for i in range(0, len(stream), step) for tag in reader.feed(stream[i : i + step])]
        assert [(tag.kind, tag.timestamp, tag.payload) for tag in found] == tags


def test_time_beyond_32_bits_wraps() -> None:
    (tag,) = flv.Reader().feed(flv.file_header() + flv.tag(flv.TagKind.AUDIO, (1 << 32) + 3, b"\xaf\x01"))
    assert tag.timestamp == 3


def test_what_ffmpeg_writes_can_be_read() -> None:
    written = io.BytesIO()
    with av.open(written, "w", format="flv") as container:
        video = container.add_stream("libx264", rate=25, options={"bf": "2"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number in range(10):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    tags = list(flv.Reader().feed(written.getvalue()))
    pictures = [flv.parse_video(tag.payload) for tag in tags if tag.kind is flv.TagKind.VIDEO]
    assert pictures[0].configures and pictures[0].data[0] == 1
    units = [picture for picture in pictures if picture.data and not picture.configures]
    assert len(units) == 10 and units[0].keyframe and not units[1].keyframe
    assert max(unit.delay_ms for unit in units) > 0  # B-frames


def test_what_is_written_is_what_ffmpeg_reads_of_it() -> None:
    video = LiveVideo(320, 240, 25, _tags.Tags(1, 1, 1, 1), "libx264", 800_000, 2.0)
    encoder, picture = LiveEncoder(video), np.full((360, 320), 99, np.uint8)
    stream = flv.file_header() + flv.metadata(320, 240, 25, sound=True) + flv.picture_configuration(0, encoder.configuration)
    for number in range(25):
        encoded = encoder.encode(picture, 40 * number, False)
        stream += flv.picture(40 * number, encoded.keyframe, encoded.data)
        stream += flv.tag(flv.TagKind.AUDIO, 40 * number, b"\x2f" + MP3_FRAME)
    with av.open(io.BytesIO(stream), format="flv") as container:
        assert container.streams.video[0].average_rate == 25
        assert container.streams.audio[0].codec_context.name.startswith("mp3")
        frames = list(container.decode(container.streams.video[0]))
    assert [(frame.width, frame.height) for frame in frames] == [(320, 240)] * 25
    assert [round(1000 * frame.time) for frame in frames] == [40 * number for number in range(25)]


@pytest.mark.parametrize(
    "payload, word", [(b"\x12" + bytes(9), "H.263"), (b"\x90hvc1" + bytes(9), "hvc1"), (b"\x1c" + bytes(9), "HEVC")]
)
def test_another_picture_codec_is_refused_by_name(payload: bytes, word: str) -> None:
    with pytest.raises(UnsupportedError, match=word):
        flv.parse_video(payload)


def test_another_sound_codec_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="Speex"):
        flv.parse_audio(b"\xb2abc")


def test_what_says_nothing_is_passed_over() -> None:
    """Empty tags, words to players that seek, sound of one byte."""
    empty = b"".join(flv.tag(kind, 0, b"") for kind in (flv.TagKind.VIDEO, flv.TagKind.AUDIO))
    assert list(flv.Reader().feed(flv.file_header() + empty)) == []
    assert [flv.parse_video(payload).data for payload in (b"\x57\0", b"\x52\0")] == [b"", b""]
    assert not flv.parse_audio(b"\xaf").configures


@pytest.mark.parametrize("payload", [b"\x17", b"\x17\x01\x00"])
def test_a_picture_that_is_cut_off_is_unreadable(payload: bytes) -> None:
    with pytest.raises(UnreadableError):
        flv.parse_video(payload)


def test_what_is_no_flv_is_said_to_be_none() -> None:
    with pytest.raises(UnreadableError, match="no FLV"):
        list(flv.Reader().feed(b"HTTP/1.1 200 OK\r\n"))


def test_a_message_of_absurd_size_is_refused_before_it_is_collected() -> None:
    with pytest.raises(UnreadableError, match="bytes"):
        list(flv.Reader().feed(flv.file_header() + b"\x09\xff\xff\xff" + bytes(7)))


MP3_FRAME = b"\xff\xfb\x90\x64" + bytes(413)
