"""Draws small clips for tests: a moving gradient with whatever streams, tags and time stamps a test asks for.

Knows nothing of the code under test.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame

ASS_HEADER = b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,16\n"


@dataclass
class Clip:
    """What to draw. Sizes in pixels, `pts` in units of `time_base`, subtitles and chapters in ms."""

    width: int = 48
    height: int = 32
    frames: int = 12
    rate: int = 12
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: {"crf": "0", "preset": "ultrafast"})
    tags: dict[str, int] = field(default_factory=dict)  # colorspace, color_primaries, color_trc, color_range
    sample_aspect_ratio: Fraction | None = None
    rotation: int | None = None  # degrees, counter-clockwise
    time_base: Fraction | None = None
    pts: Sequence[int] | None = None
    interlaced: bool = False
    tone: bool = False
    subtitles: Sequence[tuple[int, int, str]] = ()  # start, duration, text
    subtitle_codec: str = "subrip"
    chapters: Sequence[tuple[int, int, str]] = ()  # start, end, title
    metadata: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)  # options of the muxer
    format: str | None = None


def gradient(width: int, height: int, number: int) -> npt.NDArray[np.uint8]:
    """Picture `number` of the moving gradient: I420, uint8 [height * 3 / 2, width], codes from 16 to 235."""
    rows, columns = np.mgrid[0:height, 0:width]
    luma = 16 + (columns * 3 + rows * 2 + number * 5) % 220
    chroma_rows, chroma_columns = np.mgrid[0 : height // 2, 0 : width // 2]
    u, v = 64 + (chroma_columns * 4 + number) % 128, 64 + (chroma_rows * 4 + number) % 128
    return np.concatenate([plane.ravel() for plane in (luma, u, v)]).astype(np.uint8).reshape(height * 3 // 2, width)


def write(path: Path, clip: Clip | None = None, **changes: Any) -> Path:
    """Writes a clip and gives back its path."""
    clip = clip or Clip(**changes)
    with av.open(str(path), "w", format=clip.format, container_options=clip.container) as output:
        video = _add_video(output, clip)
        tone = output.add_stream("aac", rate=48000) if clip.tone else None
        texts = output.add_stream(clip.subtitle_codec) if clip.subtitles else None
        if tone is not None:
            tone.metadata["language"] = "deu"
        if texts is not None:
            cast(Any, texts.codec_context).subtitle_header = ASS_HEADER
            texts.time_base = Fraction(1, 1000)
            texts.metadata["language"] = "fra"
        output.metadata.update(clip.metadata)
        output.set_chapters(list(_chapters(clip)))
        output.start_encoding()
        _mux_texts(output, texts, clip)
        _mux_tone(output, tone, clip)
        for frame in _frames(clip):
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    return path


def _add_video(output: Any, clip: Clip) -> Any:
    time_base = clip.time_base or Fraction(1, clip.rate)
    options = dict(clip.options) if clip.codec in ("libx264", "libx265") else {}
    if clip.interlaced:
        options["x264-params"] = "tff=1"
    video = output.add_stream(
        clip.codec, rate=clip.rate, width=clip.width, height=clip.height, time_base=time_base, options=options
    )
    video.pix_fmt = clip.pix_fmt
    for name, value in clip.tags.items():
        setattr(video.codec_context, name, value)
    if clip.sample_aspect_ratio:
        video.codec_context.sample_aspect_ratio = clip.sample_aspect_ratio
    if clip.interlaced:
        video.codec_context.flags |= (1 << 18) | (1 << 29)
    if clip.rotation is not None:
        video.set_display_rotation(clip.rotation)
    return video


def _chapters(clip: Clip) -> Iterable[Any]:
    for number, (start, end, title) in enumerate(clip.chapters):
        yield {"id": number, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {"title": title}}


def _frames(clip: Clip) -> Iterable[VideoFrame]:
    for number in range(clip.frames):
        frame = VideoFrame.from_ndarray(gradient(clip.width, clip.height, number), "yuv420p")
        if clip.pix_fmt != "yuv420p":
            frame = frame.reformat(format=clip.pix_fmt)
        for name, value in clip.tags.items():
            setattr(frame, name, value)
        frame.pts = clip.pts[number] if clip.pts else number
        frame.time_base = clip.time_base or Fraction(1, clip.rate)
        yield frame


def _mux_tone(output: Any, stream: Any, clip: Clip) -> None:
    if stream is None:
        return
    for start in range(0, 48000 * clip.frames // clip.rate, 1024):
        times = np.arange(start, start + 1024) / 48000
        samples = np.tile(np.sin(times * 2 * np.pi * 440).astype(np.float32) / 4, (2, 1))
        frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def _mux_texts(output: Any, stream: Any, clip: Clip) -> None:
    for start, duration, text in clip.subtitles:
        data = text.encode()
        packet: Packet[Any] = Packet(len(data).to_bytes(2, "big") + data if clip.subtitle_codec == "mov_text" else data)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = start
        packet.duration, packet.is_keyframe = duration, True
        output.mux(packet)
