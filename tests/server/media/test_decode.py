"""What a user's file gives, and what is said of a file that gives nothing."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from models.colour import Colour, Matrix
from server.media.decode import VideoSource
from server.media.errors import MediaError, UnreadableError, UnsupportedError
from tests.server.media.support import frames_of
from tests.support import clips


def test_pictures_come_out_as_they_were_drawn(tmp_path: Path) -> None:
    frames = frames_of(clips.write(tmp_path / "clip.mp4", width=50, height=34))
    assert len(frames) == 12
    for number, frame in enumerate(frames):
        assert np.array_equal(np.concatenate([p.ravel() for p in frame.planes]), clips.gradient(50, 34, number).ravel())
    assert [f.planes[1].shape for f in frames[:1]] == [(17, 25)]


def test_what_a_source_says_of_itself(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", rotation=90, sample_aspect_ratio=Fraction(4, 3), metadata={"title": "A"})
    with VideoSource(path) as source:
        assert (source.width, source.height, source.frames, source.codec) == (48, 32, 12, "h264")
        assert (source.frame_rate, source.sample_aspect_ratio) == (Fraction(12), Fraction(4, 3))
        assert source.display_matrix is not None and source.display_matrix[:2] == [0, -65536]
        assert source.metadata["title"] == "A" and source.notes == []


@pytest.mark.parametrize(
    ("tags", "height", "colour", "written"),
    [
        ({}, 32, Colour("bt601", "limited"), (6, 6, 6, 1)),
        ({}, 720, Colour("bt709", "limited"), (1, 1, 1, 1)),
        ({"colorspace": 1}, 32, Colour("bt709", "limited"), (1, 2, 2, 1)),
        ({"colorspace": 5, "color_range": 2}, 32, Colour("bt601", "full"), (5, 2, 2, 2)),
        ({"colorspace": 9, "color_primaries": 9, "color_trc": 14}, 32, Colour("bt2020", "limited"), (9, 9, 14, 1)),
    ],
)
def test_tags(tmp_path: Path, tags: dict[str, int], height: int, colour: Colour, written: tuple[int, int, int, int]) -> None:
    with VideoSource(clips.write(tmp_path / "clip.mkv", height=height, frames=2, tags=tags)) as source:
        assert source.colour == colour
        assert (source.colorspace, source.color_primaries, source.color_trc, source.color_range) == written


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "note"),
    [
        ("ffv1", "yuv420p10le", "10-bit reduced to 8 bit"),
        ("ffv1", "yuv422p", "chroma reduced to 4:2:0 (from yuv422p)"),
        ("ffv1", "yuv444p", "chroma reduced to 4:2:0 (from yuv444p)"),
        ("ffv1", "gray", None),
    ],
)
def test_other_formats_become_8_bit_420(tmp_path: Path, codec: str, pix_fmt: str, note: str | None) -> None:
    path = clips.write(tmp_path / "clip.mkv", codec=codec, pix_fmt=pix_fmt)
    with VideoSource(path) as source:
        assert source.notes == ([note] if note else [])
    luma = frames_of(path)[3].planes[0].astype(int)
    assert np.abs(luma - clips.gradient(48, 32, 3)[:32]).max() <= 2


@pytest.mark.parametrize(("height", "matrix"), [(32, "bt601"), (720, "bt709")])
def test_rgb_is_converted_by_the_matrix_of_its_height(tmp_path: Path, height: int, matrix: Matrix) -> None:
    path = clips.write(tmp_path / "clip.mkv", codec="ffv1", pix_fmt="bgr0", height=height, frames=2)
    with av.open(str(path)) as container:
        rgb = next(container.decode(video=0)).to_ndarray(format="rgb24") / 255
    with VideoSource(path) as source:
        assert source.notes == [f"RGB converted to {matrix.upper()} 4:2:0"] and source.colour == Colour(matrix, "limited")
    red, green, blue, offset = Colour(matrix, "limited").rgb_to_yuv()[0]
    luma = rgb @ np.array([red, green, blue]) + offset
    assert np.abs(frames_of(path)[0].planes[0] - luma).max() <= 1.5


def test_full_range_codes_are_kept_in_a_conversion(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mkv", codec="ffv1", pix_fmt="yuv444p", tags={"color_range": 2})
    with VideoSource(path) as source:
        assert source.colour.range == "full"
    drawn = clips.gradient(48, 32, 3)[:32].astype(int)
    assert np.abs(frames_of(path)[3].planes[0].astype(int) - drawn).max() <= 2


def test_interlaced_frames_are_deinterlaced_one_for_one(tmp_path: Path) -> None:
    pts = list(range(0, 12 * 512, 512))
    path = clips.write(tmp_path / "clip.mkv", interlaced=True, time_base=Fraction(1, 1000), pts=[p // 8 for p in pts])
    with VideoSource(path) as source:
        assert "deinterlaced (bwdif)" in source.notes
    assert [f.pts for f in frames_of(path)] == [p // 8 for p in pts]


def test_frames_without_time_stamps_follow_the_frame_rate(tmp_path: Path) -> None:
    # A raw stream has no time stamps; FFmpeg takes it for 25 frames per second.
    times = [f.pts * f.time_base for f in frames_of(clips.write(tmp_path / "clip.h264", format="h264", rate=25))]
    assert times == [Fraction(n, 25) for n in range(12)]


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=1, width=16, height=16)
        stream.pix_fmt, stream.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        output.mux(stream.encode(av.VideoFrame.from_ndarray(clips.gradient(16, 16, 0), "yuv420p").reformat(format="yuvj420p")))
        output.mux(stream.encode(None))
    with pytest.raises(UnsupportedError, match="no video"):
        VideoSource(path)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(tmp_path: Path, transfer: int, name: str) -> None:
    path = clips.write(tmp_path / "clip.mkv", tags={"color_trc": transfer})
    with pytest.raises(UnsupportedError, match=rf"HDR \({name}\).*tone-map"):
        VideoSource(path)


@pytest.mark.parametrize("container", ["clip.mp4", "fast.mp4", "clip.mkv", "clip.avi", "clip.flv", "frag.mp4"])
@pytest.mark.parametrize("kept", [0.4, 0.7, 0.95])
def test_a_file_cut_off_is_refused(tmp_path: Path, container: str, kept: float) -> None:
    flags = {"fast.mp4": "faststart", "frag.mp4": "frag_keyframe+empty_moov"}.get(container)
    path = clips.write(tmp_path / container, frames=48, container={"movflags": flags} if flags else {})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UnreadableError, match=container):
        frames_of(path)


def test_damage_in_the_middle_is_named_with_its_place(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", frames=24)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match=r"after frame \d+ \(\d\.\d+ s\)"):
        frames_of(path)


def test_a_change_of_size_is_refused(tmp_path: Path) -> None:
    first = clips.write(tmp_path / "a.ts", codec="mpeg2video", width=48)
    second = clips.write(tmp_path / "b.ts", codec="mpeg2video", width=64)
    joined = tmp_path / "joined.mpg"
    with av.open(str(joined), "w", format="mpeg2video") as output, av.open(str(first)) as one, av.open(str(second)) as two:
        stream = output.add_stream_from_template(one.streams.video[0])
        for number, packet in enumerate([p for c in (one, two) for p in c.demux(video=0) if p.size]):
            packet.stream, packet.pts, packet.dts = stream, number * 7500, number * 7500
            output.mux(packet)
    with pytest.raises(UnsupportedError, match="48x32 to 64x32"):
        frames_of(joined)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile '{real}'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-VERSION:3\n#EXTINF:1,\n{real}\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "Dear diary, this is no film.\n" * 50,
        "",
    ],
)
def test_what_poses_as_a_container_is_refused(tmp_path: Path, text: str) -> None:
    real, fake = clips.write(tmp_path / "real.mp4"), tmp_path / "fake.mp4"
    fake.write_text(text.format(real=real))
    with pytest.raises(UnreadableError, match="not a supported container"):
        VideoSource(fake)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="no such file"):
        VideoSource(tmp_path / "none.mp4")
    with pytest.raises(UnreadableError, match="a directory"):
        VideoSource(tmp_path)


def test_audio_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tone.mp4"
    with av.open(str(path), "w") as output:
        tone = output.add_stream("aac", rate=48000)
        output.start_encoding()
        clips._mux_tone(output, tone, clips.Clip(tone=True))
    with pytest.raises(MediaError, match="no video"):
        VideoSource(path)
