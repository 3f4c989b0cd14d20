"""The video encoders we offer, their settings, and whether they work on this machine.

Knows nothing of containers or files; the names are there without FFmpeg being loaded.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from server.media.errors import EncoderError

Options = dict[str, str]


@dataclass(frozen=True)
class EncoderSettings:
    """How to compress. `None` leaves a choice to the encoder's default here.

    Attributes:
        encoder: one of `ENCODERS`, or "auto": libx264.
        crf: constant quality, lower is better and larger; the scale is the encoder's own.
        preset: speed against size, in the encoder's own words.
        threads: of the encoder; 0: as many as it likes.
    """

    encoder: str = "auto"
    crf: int | None = None
    preset: str | None = None
    threads: int = 0


@dataclass(frozen=True)
class Encoder:
    """An encoder: its defaults and how its options are spelt."""

    name: str
    crf: int
    preset: str
    spell: Callable[[int, str, int], Options]  # crf, preset, threads -> options

    def options(self, settings: EncoderSettings) -> Options:
        """The options of the codec context."""
        crf = self.crf if settings.crf is None else settings.crf
        return self.spell(crf, settings.preset or self.preset, settings.threads)


def _x264(crf: int, preset: str, threads: int) -> Options:
    return {"crf": str(crf), "preset": preset}


def _x265(crf: int, preset: str, threads: int) -> Options:
    pools = f":pools={threads}" if threads else ""
    return {"crf": str(crf), "preset": preset, "x265-params": f"log-level=error{pools}"}


def _svt(crf: int, preset: str, threads: int) -> Options:
    os.environ.setdefault("SVT_LOG", "1")  # errors only; it has no option for that
    return {"crf": str(crf), "preset": preset} | ({"svtav1-params": f"lp={min(threads, 6)}"} if threads else {})


def _nvenc(crf: int, preset: str, threads: int) -> Options:
    return {"rc": "vbr", "cq": str(crf), "preset": preset}


ENCODERS = {
    encoder.name: encoder
    for encoder in (
        Encoder("libx264", 18, "veryfast", _x264),
        Encoder("libx265", 20, "veryfast", _x265),
        Encoder("libsvtav1", 30, "10", _svt),
        Encoder("h264_nvenc", 20, "p4", _nvenc),
        Encoder("hevc_nvenc", 22, "p4", _nvenc),
        Encoder("av1_nvenc", 28, "p4", _nvenc),
    )
}


def choose(settings: EncoderSettings) -> Encoder:
    """The encoder that `settings` names, known to work here.

    Raises:
        EncoderError: unknown, or cannot be used on this machine.
    """
    name = "libx264" if settings.encoder == "auto" else settings.encoder
    if name not in ENCODERS:
        raise EncoderError(f"no encoder {name!r}; choose auto, {', '.join(ENCODERS)}")
    if name.endswith("_nvenc"):
        _probe(name)
    return ENCODERS[name]


def _probe(name: str) -> None:
    # Without a driver nvenc fails only when it is opened; ask before the long work starts.
    import av
    from av.codec import CodecContext
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

    try:
        context = CodecContext.create(name, "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.encode(VideoFrame(256, 256, "yuv420p"))
    except (av.FFmpegError, ValueError) as error:
        raise EncoderError(f"{name} cannot be used here: it needs an NVIDIA driver and GPU ({error}); use libx264") from error
