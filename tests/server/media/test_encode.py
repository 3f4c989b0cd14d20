"""What arrives in the file that a user gets."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import AttachmentStream

from server.media.decode import VideoSource
from server.media.encode import EncoderSettings, VideoSink
from server.media.errors import EncoderError, OutputError
from tests.server.media.support import convert, frames_of, packets_of
from tests.support import clips

CHAPTERS = [(0, 500, "one"), (500, 1000, "two")]


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "flv"])
def test_pictures_are_four_times_larger_and_the_same(tmp_path: Path, suffix: str) -> None:
    source, target = clips.write(tmp_path / "in.mp4"), tmp_path / f"out.{suffix}"
    assert convert(source, target, crf=4) == []
    small, large = frames_of(source), frames_of(target)
    assert len(large) == len(small) == 12 and large[0].planes[0].shape == (128, 192)
    for before, after in zip(small, large, strict=True):
        error = after.planes[0][::4, ::4].astype(int) - before.planes[0]
        assert np.abs(error).mean() < 4
    assert names(tmp_path) == sorted(["in.mp4", target.name])


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "flv"])
def test_sound_is_copied_bit_for_bit_and_in_time(tmp_path: Path, suffix: str) -> None:
    source, target = clips.write(tmp_path / "in.mp4", tone=True), tmp_path / f"out.{suffix}"
    convert(source, target)
    before, after = packets_of(source, "audio"), packets_of(target, "audio")
    assert after.data == before.data
    lag = packets_of(source, "video").times[0] - before.times[0]
    assert abs(packets_of(target, "video").times[0] - after.times[0] - lag) <= Fraction(1, 1000)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_chapters_languages_metadata_rotation_and_pixel_shape_survive(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / f"out.{suffix}"
    clips.write(
        source, tone=True, chapters=CHAPTERS, rotation=90, sample_aspect_ratio=Fraction(4, 3), metadata={"title": "A film"}
    )
    convert(source, target)
    with VideoSource(target) as result:
        titles = [c["metadata"]["title"] for c in result.chapters]
        starts = [c["start"] * (c["time_base"] or 0) for c in result.chapters]
        assert (titles, starts) == (["one", "two"], [0, Fraction(1, 2)])
        assert {k.lower(): v for k, v in result.metadata.items()}["title"] == "A film"
        assert [s.language for s in result.copied_streams if s.type == "audio"] == ["deu"]
        assert result.sample_aspect_ratio == Fraction(4, 3)
        assert result.display_matrix is not None and result.display_matrix[:2] == [0, -65536]


@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libsvtav1"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_frame_rate_survives(tmp_path: Path, suffix: str, encoder: str) -> None:
    pts = [0, 40, 100, 130, 200, 300, 333, 400, 500, 600, 700, 1500]
    source, target = clips.write(tmp_path / "in.mkv", time_base=Fraction(1, 1000), pts=pts), tmp_path / f"out.{suffix}"
    convert(source, target, encoder=encoder)
    assert [f.pts * f.time_base * 1000 for f in frames_of(target)] == pts


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("tags", "written"),
    [({}, (6, 6, 6, 1)), ({"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 2}, (1, 1, 1, 2))],
)
def test_colour_tags_are_written(tmp_path: Path, suffix: str, tags: dict[str, int], written: tuple[int, ...]) -> None:
    target = tmp_path / f"out.{suffix}"
    convert(clips.write(tmp_path / "in.mkv", tags=tags), target)
    with av.open(str(target)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == written


@pytest.mark.parametrize(
    ("source", "codec", "target", "expected"),
    [
        ("in.mkv", "subrip", "out.mp4", [b"\0\2hi", b"\0\2yo"]),
        ("in.mkv", "subrip", "out.mkv", [b"<i>hi</i>", b"yo"]),
        ("in.mp4", "mov_text", "out.mkv", [b"hi", b"yo"]),
    ],
)
def test_subtitles_go_where_they_can(tmp_path: Path, source: str, codec: str, target: str, expected: list[bytes]) -> None:
    first = "<i>hi</i>" if codec == "subrip" else "hi"
    path = clips.write(tmp_path / source, subtitles=[(0, 300, first), (500, 200, "yo")], subtitle_codec=codec)
    convert(path, tmp_path / target)
    texts = [p for p in packets_of(tmp_path / target, "subtitle").data if p != b"\0\0"]
    assert texts == expected


def test_what_a_container_cannot_hold_is_named(tmp_path: Path) -> None:
    source = clips.write(tmp_path / "in.mkv", chapters=CHAPTERS, subtitles=[(0, 300, "hi")])
    notes = convert(source, tmp_path / "out.flv")
    assert any("subtitle stream 1" in n and "left out" in n for n in notes) and any("chapters left out" in n for n in notes)


def test_mp4_can_be_played_while_it_loads(tmp_path: Path) -> None:
    convert(clips.write(tmp_path / "in.mp4"), tmp_path / "out.mp4")
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat") and b"colrnclx" in data


@pytest.mark.parametrize("height", [32, 34])
def test_any_even_height_is_encoded_whole(tmp_path: Path, height: int) -> None:
    source_path = clips.write(tmp_path / "in.mp4", height=height)
    with VideoSource(source_path) as source, VideoSink(tmp_path / "out.mp4", source, 48, height) as sink:
        for frame in frames_of(source_path):
            sink.encode(clips.gradient(48, height, 0), frame.pts, frame.duration)
    drawn = clips.gradient(48, height, 0)[:height].astype(int)
    assert np.abs(frames_of(tmp_path / "out.mp4")[0].planes[0] - drawn).mean() < 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "mpeg4"}, "no encoder 'mpeg4'; choose auto, libx264"),
        ({"preset": "warp"}, "refuses 192x128"),
    ],
)
def test_a_wrong_encoder_is_refused_and_nothing_left(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    source = clips.write(tmp_path / "in.mp4")
    with pytest.raises(EncoderError, match=message):
        convert(source, tmp_path / "out.mp4", **settings)
    assert names(tmp_path) == ["in.mp4"]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_nvenc_without_a_driver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="cannot be used here: it needs an NVIDIA driver"):
        convert(clips.write(tmp_path / "in.mp4"), tmp_path / "out.mp4", encoder="h264_nvenc")


def test_nothing_is_left_after_an_exception(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "in.mp4")
    with (
        VideoSource(path) as source,
        pytest.raises(KeyboardInterrupt),
        VideoSink(tmp_path / "out.mp4", source, 48, 32, EncoderSettings()) as sink,
    ):
        sink.encode(clips.gradient(48, 32, 0), 0, 0)
        raise KeyboardInterrupt
    assert names(tmp_path) == ["in.mp4"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("in.mp4", "the input itself"),
        ("out.txt", "we do not write .txt"),
        ("none/out.mp4", "there is no folder"),
        ("/sys/out.mp4", "may not write"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, target: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        convert(clips.write(tmp_path / "in.mp4"), tmp_path / target)
    assert names(tmp_path) == ["in.mp4"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from server.media.errors import OutputError
from tests.server.media.support import convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    convert(Path(sys.argv[1]), Path(sys.argv[2]), crf=0)
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("room", [100, 20_000])
def test_a_full_disk_is_said_and_nothing_left(tmp_path: Path, suffix: str, room: int) -> None:
    source = clips.write(tmp_path / "in.mp4", tone=True)
    arguments = [sys.executable, "-c", FULL_DISK, str(source), str(tmp_path / f"out.{suffix}"), str(room)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert "no space left" in done.stdout
    assert names(tmp_path) == ["in.mp4"]


def test_a_cover_picture_goes_along(tmp_path: Path) -> None:
    plain, covered = clips.write(tmp_path / "plain.mp4"), tmp_path / "in.mp4"
    with av.open(str(plain)) as source, av.open(str(covered), "w") as output:
        film = output.add_stream_from_template(source.streams.video[0])
        cover = output.add_stream("mjpeg", rate=1, width=16, height=16)
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        output.start_encoding()
        picture = av.VideoFrame.from_ndarray(clips.gradient(16, 16, 0), "yuv420p").reformat(format="yuvj420p")
        output.mux([*cover.encode(picture), *cover.encode(None)])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = film
                output.mux(packet)
    assert convert(covered, tmp_path / "out.mp4") == []
    with VideoSource(tmp_path / "out.mp4") as result:
        assert [s.type for s in result.copied_streams] == ["video"] and result.width == 192


def test_odd_sizes_and_fonts_survive(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as output:
        video = output.add_stream("ffv1", rate=12, width=47, height=31)
        output.add_attachment("font.ttf", "application/x-truetype-font", b"a font")
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((31, 47, 3), 99, np.uint8), "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 12)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    with VideoSource(source) as opened, VideoSink(tmp_path / "out.mkv", opened, 188, 124) as sink:
        frames = frames_of(source)
        assert frames[0].planes[0].shape == (31, 47) and frames[0].planes[1].shape == (16, 24)
        for shown in frames:
            sink.encode(clips.gradient(188, 124, 0), shown.pts, shown.duration)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [s.data for s in container.streams if isinstance(s, AttachmentStream)] == [b"a font"]
