"""What `fourfold bench relay` reads from pictures and makes of it; and all of it, with FFmpeg in the relay's place."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models.errors import FourfoldError
from server.bench.burn import Mark, burn, mark, read
from server.bench.relay import measure
from server.bench.relay_figures import COLUMNS, stream_figures
from server.bench.render import save
from server.bench.tables import text
from tests.support.rtmp import hook_server, nginx_rtmp


def encoded(luma: "np.ndarray", **options: str) -> "np.ndarray":
    """What is left of it after H.264."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = luma.shape[1], luma.shape[0], "yuv420p", Fraction(1, 30)
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", **options}
    planes = np.concatenate([luma, np.full((luma.shape[0] // 2, luma.shape[1]), 128, np.uint8)])
    packets = [*encoder.encode(av.VideoFrame.from_ndarray(planes, "yuv420p")), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    (frame,) = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return frame.to_ndarray(format="gray")


def noisy() -> "np.ndarray":
    return np.random.default_rng(3).integers(16, 236, (270, 480)).astype(np.uint8)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_marks_survive_compression_and_upscaling(scale: int) -> None:
    luma, content = noisy(), mark(0x00A5F31C, 123456.7891)
    burn(luma, content)
    small = encoded(luma, crf="40")
    large = av.VideoFrame.from_ndarray(small, "gray").reformat(480 * scale, 270 * scale, interpolation="BICUBIC")
    again = encoded(large.to_ndarray(), crf="35")
    assert read(again) == content
    assert read(np.ascontiguousarray(again[: 24 * scale])) == content


def test_what_is_no_mark_is_none() -> None:
    luma = noisy()
    assert read(luma) is None
    burn(luma, Mark(7, 8))
    luma[:, :100] = 255 - luma[:, :100]
    assert read(luma) is None


def test_a_mark_tells_its_age_also_when_the_clock_wraps() -> None:
    assert mark(1, 100.0).age_seconds(100.25) == pytest.approx(0.25, abs=1e-3)
    before_wrap = 2**32 / 10_000 - 0.1
    assert mark(1, before_wrap).age_seconds(before_wrap + 0.3) == pytest.approx(0.3, abs=1e-3)


def test_widths_that_have_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 40"):
        burn(np.zeros((270, 479), np.uint8), Mark(0, 0))


def test_figures_of_a_stream() -> None:
    """Ten pictures, 0.1 s apart, of which eight count; one is lost, one is shown twice, beeps come 20 ms early."""
    sent = {"sent": [[n, 100 + n / 10] for n in range(10)]}
    plain = {"pictures": [[n, 0.010, n / 10, 100.01 + n / 10] for n in range(10)], "beeps": [-0.02], "decode_ms": [1.0]}
    ours = {
        "pictures": [[n, 0.040 + n / 1000, n / 10, 100.04 + n / 10] for n in range(10) if n != 5],
        "beeps": [-0.02],
        "decode_ms": [4.0],
        "unread": 0,
        "size": [1920, 1080],
    }
    ours["pictures"].insert(4, [3, 0.060, 0.31, 100.36])
    figures = stream_figures(sent, plain, ours, (100.05, 100.85))
    assert (figures["sent"], figures["lost"], figures["repeated"]) == (8, 1, 1)
    assert figures["reference"] == {"lost": 0, "latency_ms": {"p50": 10, "p95": 10, "p99": 10, "max": 10}}
    assert figures["latency_ms"]["p50"] == 44 and figures["latency_ms"]["max"] == 48
    assert figures["added_ms"]["p50"] == 34
    assert figures["longest_gap_ms"] == 200
    assert figures["sound_ahead_ms"] == {"median": 20, "min": 20, "max": 20, "beeps": 1}


def test_all_of_it_with_ffmpeg_in_the_relays_place(tmp_path: Path) -> None:
    with hook_server("s") as hooks, nginx_rtmp(tmp_path, hooks.url, "s") as rtmp, _bicubic(rtmp.rtmp_url, "cam"):
        result = measure(rtmp.rtmp_url, ["cam"], 5, dict)
    (stream,) = result["streams"]
    assert stream["size"] == [960, 540] and stream["sent"] > 30
    assert stream["lost"] < stream["sent"]
    assert stream["reference"]["latency_ms"]["p50"] > 0 and stream["added_ms"]["p50"] > 0
    assert abs(stream["reference_sound_ahead_ms"]["median"]) < 100
    assert abs(stream["sound_ahead_ms"]["median"]) < 200
    assert stream["unread"] == 0 and stream["service"] is None
    (row,) = [line for line in text(_told(result)).splitlines() if line.startswith("| 1: cam | 960x540 |")]
    assert row.count("|") == len(COLUMNS) + 1


def _told(result: dict[str, Any]) -> dict[str, Any]:
    settings = {"rounds": 1, "minutes": 0.1, "input": "480x270"}
    return {"kind": "relay", "versions": {}, "command": "", "date": "", "commit": "", "settings": settings, "rounds": [result]}


def test_a_refused_publisher_ends_it_with_a_word(tmp_path: Path) -> None:
    with hook_server("s") as hooks, nginx_rtmp(tmp_path, hooks.url, "s") as rtmp:
        hooks.refuse.add("cam")
        with pytest.raises(
            FourfoldError, match=r"a stream broke off, or was refused: (publish|play) rtmp://.*/(live|upscaled)/cam"
        ):
            measure(rtmp.rtmp_url, ["cam"], 5, dict)


@contextmanager
def _bicubic(rtmp_url: str, name: str) -> Iterator[None]:
    """Relays live/NAME to upscaled/NAME, twice as large."""
    ffmpeg = shutil.which("ffmpeg")
    assert ffmpeg, "ffmpeg is missing: run `make system`"
    source = ["-nostdin", "-v", "error", "-fflags", "nobuffer", "-i", f"{rtmp_url}/live/{name}"]
    video = ["-vf", "scale=2*iw:2*ih:flags=bicubic", "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency"]
    command = [ffmpeg, *source, *video, "-g", "30", "-c:a", "copy", "-f", "flv", f"{rtmp_url}/upscaled/{name}"]
    relay = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        relay.kill()
        relay.wait()


def test_names_of_results_are_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../evil", "a/b", "", ".hidden"):
        with pytest.raises(FourfoldError, match="plain name"):
            save({}, name)
    assert save({"kind": "relay"}, "bench-cpu.json").name == "bench-cpu.json"
