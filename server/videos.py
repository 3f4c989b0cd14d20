"""Upscaling one video file: opens source, engine and sink, and runs a session between them.

The command line and the service's workers both call this; where the engine runs is up to them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from engines.runner import EngineSpec
from server.catalogue import find_graphs
from server.media.decode import MAX_PIXELS, DecodedFrame, VideoSource
from server.media.encode import EncoderSettings, VideoSink
from server.media.errors import DimensionsError, UnsupportedError
from server.streams.session import Session
from server.video_engines import OpenedEngine, Say, open_here


@dataclass(frozen=True)
class VideoOptions:
    """What a user may choose; the defaults choose themselves."""

    model: str = "auto"
    scale: int = 4
    engine: str = "auto"
    precision: str = "auto"
    engine_process: bool = False  # run the engine in a process of its own
    height: int | None = None  # lines of the output, when not scale times the input's
    encoder: EncoderSettings = field(default_factory=EncoderSettings)


@dataclass(frozen=True)
class VideoLimits:
    """What is upscaled at most; a user's own machine has hardly any limits."""

    pixels: int = MAX_PIXELS  # of an input picture
    output_pixels: int | None = None
    seconds: float | None = None  # from the first picture to the last
    side: int = 1  # of the input picture, at least, pixels


OpenEngine = Callable[[EngineSpec], AbstractContextManager[OpenedEngine]]


def upscale_video(
    source_path: Path,
    target_path: Path,
    options: VideoOptions,
    say: Say,
    on_frame: Callable[[int, int | None], None] = lambda done, total: None,
    open_engine: OpenEngine | None = None,
    limits: VideoLimits = VideoLimits(),
) -> dict[str, Any]:
    """Upscales a file and returns the figures that `fourfold video --json` prints.

    Args:
        source_path: a video file.
        target_path: .mp4, .mkv, .mov or .flv; exists only once it is complete.
        options: see there.
        say: see there.
        on_frame: called after each frame with the number done and the number there are (None if the container does not say).
        open_engine: opens an engine for frames of one size; None: on this machine, as `options` say.
        limits: see there.

    Raises:
        FourfoldError: what, why and what to do.
    """
    started = perf_counter()
    with _both_ends(source_path, target_path, options, limits) as ends:
        source, sink = ends.source, ends.sink
        with open_engine(ends.spec) if open_engine else _open_here(ends.spec, options, say) as opened:
            session = Session(_within(ends, limits), lambda item: isinstance(item, DecodedFrame), opened.engine, sink)
            session.run(lambda done: on_frame(done, source.frames))
    for note in (f"{ends.model} x{ends.spec.scale} on {opened.reason}", *source.notes, *sink.notes):
        say(note)
    seconds = perf_counter() - started
    return {
        "frames_in": len(session.times.decode),
        "frames_out": session.frames,
        "frames_dropped": 0,
        "seconds": round(seconds, 3),
        "fps": round(session.frames / seconds, 2),
        "model": ends.model,
        "engine": opened.backend,
        "precision": opened.precision,
        **ends.described(),
        "stages_ms": session.times.milliseconds(),
    }


def check_video(source_path: Path, target_path: Path, options: VideoOptions, limits: VideoLimits) -> dict[str, Any]:
    """Opens both ends as `upscale_video` would, decodes the first picture, and leaves nothing behind.

    Returns:
        The input and the output as in the figures of `upscale_video`.

    Raises:
        FourfoldError: as `upscale_video`, but for what only shows later.
    """
    with _both_ends(source_path, target_path, options, limits) as ends:
        ends.sink.discard()
    return ends.described()


@dataclass(frozen=True)
class _Ends:
    """An open source, the open sink that fits it, and what lies between."""

    model: str
    spec: EngineSpec
    source: VideoSource
    sink: VideoSink

    def described(self) -> dict[str, Any]:
        source, (width, height) = self.source, self.sink.size
        return {
            "input": _described(source.width, source.height, source.frame_rate, source.codec),
            "output": _described(width, height, source.frame_rate, self.sink.codec),
        }


@contextmanager
def _both_ends(source_path: Path, target_path: Path, options: VideoOptions, limits: VideoLimits) -> Iterator[_Ends]:
    model, graphs = find_graphs(options.model, options.scale, "yuv420")
    with VideoSource(source_path, max_pixels=limits.pixels) as source:
        spec = EngineSpec(graphs, source.width, source.height, source.colour)
        height, width = spec.output_planes(source.height, source.width)[0]
        if options.height:
            height, width = options.height & ~1, round(width * options.height / height) & ~1
        _check(source, width, height, limits)
        with VideoSink(target_path, source, width, height, options.encoder) as sink:
            yield _Ends(model, spec, source, sink)


def _check(source: VideoSource, width: int, height: int, limits: VideoLimits) -> None:
    """Refuses what is beyond the limits and shows at once."""
    if min(source.width, source.height) < limits.side:
        size = f"{source.width}x{source.height}"
        raise DimensionsError(f"its picture is {size}; at least {limits.side} pixels are needed each way", source.path)
    if limits.output_pixels and width * height > limits.output_pixels:
        problem = f"the result would be {width}x{height}; at most {limits.output_pixels} pixels are made; take a smaller scale"
        raise DimensionsError(problem, source.path)
    if limits.seconds and source.seconds and source.seconds > limits.seconds:
        raise _too_long(source, source.seconds, limits.seconds)


def _within(ends: _Ends, limits: VideoLimits) -> Iterable[Any]:
    """What the source gives, until a picture is later than the limit allows: containers lie about their length."""
    first: int | None = None
    for item in ends.source.read():
        if limits.seconds and isinstance(item, DecodedFrame):
            first = item.pts if first is None else first
            if (seconds := float((item.pts - first) * item.time_base)) > limits.seconds:
                raise _too_long(ends.source, seconds, limits.seconds)
        yield item


def _too_long(source: VideoSource, seconds: float, limit: float) -> UnsupportedError:
    return UnsupportedError(f"it lasts {seconds:.1f} s, at most {limit:g} s are upscaled; cut it", source.path)


def _open_here(spec: EngineSpec, options: VideoOptions, say: Say) -> AbstractContextManager[OpenedEngine]:
    return open_here(spec, options.engine, options.precision, options.engine_process, say)


def _described(width: int, height: int, rate: Any, codec: str) -> dict[str, Any]:
    return {"width": width, "height": height, "fps": round(float(rate), 3) if rate else None, "codec": codec}
