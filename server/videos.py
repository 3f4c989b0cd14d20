"""Upscaling one video file: opens source, engine and sink, and runs a session between them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from engines.choose import choose
from engines.client import ProcessEngine
from engines.engine import LocalEngine
from engines.runner import EngineSpec
from server.catalogue import cores, find_graphs
from server.media.decode import DecodedFrame, VideoSource
from server.media.encode import EncoderSettings, VideoSink
from server.streams.session import Session

FRAMES_ON_THE_WAY = 3
"""Slots beyond those that the engine works on: one being filled, one waiting, one being encoded."""


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


def upscale_video(
    source_path: Path,
    target_path: Path,
    options: VideoOptions,
    say: Callable[[str], None],
    on_frame: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Upscales a file and returns the figures that `fourfold video --json` prints.

    Args:
        source_path: a video file.
        target_path: .mp4, .mkv, .mov or .flv; exists only once it is complete.
        options: see there.
        say: takes one line about a choice that was made or something that was lost.
        on_frame: called after each frame with the number done and the number there are (None if the container does not say).

    Raises:
        FourfoldError: what, why and what to do.
    """
    started = perf_counter()
    model, graphs = find_graphs(options.model, options.scale, "yuv420")
    with VideoSource(source_path) as source:
        spec = EngineSpec(graphs, source.width, source.height, source.colour)
        choice = choose(spec, "throughput", cores(), options.engine, options.precision, say)
        height, width = spec.output_planes(source.height, source.width)[0]
        if options.height:
            height, width = options.height & ~1, round(width * options.height / height) & ~1
        with (
            VideoSink(target_path, source, width, height, options.encoder) as sink,
            (ProcessEngine if options.engine_process else LocalEngine)(
                choice.backend, choice.spec, choice.spec.layout.lanes * choice.spec.layout.batch + FRAMES_ON_THE_WAY
            ) as engine,
        ):
            session = Session(source.read(), lambda item: isinstance(item, DecodedFrame), engine, sink)
            session.run(lambda done: on_frame(done, source.frames))
        for note in (f"{model} x{graphs.scale} on {choice.reason}", *source.notes, *sink.notes):
            say(note)
    seconds = perf_counter() - started
    return {
        "frames_in": len(session.times.decode),
        "frames_out": session.frames,
        "frames_dropped": 0,
        "seconds": round(seconds, 3),
        "fps": round(session.frames / seconds, 2),
        "model": model,
        "engine": choice.backend,
        "precision": choice.spec.precision,
        "input": _described(source.width, source.height, source.frame_rate, source.codec),
        "output": _described(width, height, source.frame_rate, sink.codec),
        "stages_ms": session.times.milliseconds(),
    }


def _described(width: int, height: int, rate: Any, codec: str) -> dict[str, Any]:
    return {"width": width, "height": height, "fps": round(float(rate), 3) if rate else None, "codec": codec}
