"""One and more clips on their way at once: a session each, in threads of one process, on one engine, as the service has it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.engine import LocalEngine
from models.errors import FourfoldError
from server.bench.stages import WARM_UP, Setup
from server.media.decode import DecodedFrame, VideoSource
from server.media.encode import VideoSink
from server.streams.session import Session

COOL_DOWN = 0.1
"""The share of all frames, the last ones, that is not counted either: some streams have ended."""


@dataclass(frozen=True)
class Stamp:
    """A frame that the encoder has taken.

    Attributes:
        stream: its number.
        at: seconds, `time.perf_counter`.
        processor: seconds that all threads of this process have computed so far.
        waited: seconds since the frame was decoded.
    """

    stream: int
    at: float
    processor: float
    waited: float


@dataclass(frozen=True)
class Run:
    """What came of a number of streams.

    Attributes:
        fps: frames a second, all streams together.
        slowest_fps: of the stream with the fewest.
        core_ms: processor milliseconds a frame.
        p50_ms, p95_ms, p99_ms: from decoded to taken by the encoder.
        peak_rss_bytes: of the process, start-up included.
    """

    fps: float
    slowest_fps: float
    core_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    peak_rss_bytes: int


def run_streams(setup: Setup, streams: int, folder: Path) -> Run:
    """Upscales the clip `streams` times at once; to be called in a process of its own, for the memory's sake."""
    stamps = list[Stamp]()
    with setup.engine(streams) as engine, ThreadPoolExecutor(streams) as threads:
        runs = [threads.submit(_stream, setup, engine, i, folder / f"{i}.mp4", stamps) for i in range(streams)]
        for run in runs:
            run.result()
    return evaluate(stamps, streams)


def evaluate(stamps: list[Stamp], streams: int) -> Run:
    """The figures of the middle of a run: from the first to the last stamp that counts.

    Raises:
        FourfoldError: there are not even two.
    """
    stamps = sorted(stamps, key=lambda stamp: stamp.at)
    counted = stamps[int(WARM_UP * len(stamps)) : len(stamps) - int(COOL_DOWN * len(stamps))]
    if len(counted) < 2:
        raise FourfoldError("the clip is too short to be timed; take one of a second or more")
    first, *later = counted
    seconds, processor = later[-1].at - first.at, later[-1].processor - first.processor
    fewest = min(sum(stamp.stream == i for stamp in later) for i in range(streams))
    p50, p95, p99 = np.percentile([1000 * stamp.waited for stamp in later], [50, 95, 99])
    core_ms = 1000 * processor / len(later)
    return Run(len(later) / seconds, fewest / seconds, core_ms, float(p50), float(p95), float(p99), _peak_rss_bytes())


def _stream(setup: Setup, engine: LocalEngine, number: int, target: Path, stamps: list[Stamp]) -> None:
    """What `fourfold video` does with a file, once its engine is there."""
    decoded = list[float]()

    def read(source: VideoSource) -> Iterator[Any]:
        for item in source.read():
            if isinstance(item, DecodedFrame):
                decoded.append(time.perf_counter())
            yield item

    def on_frame(done: int) -> None:
        now = time.perf_counter()
        stamps.append(Stamp(number, now, time.process_time(), now - decoded[done - 1]))

    with VideoSource(setup.clip) as source:
        height, width = setup.choice.spec.output_planes(source.height, source.width)[0]
        with VideoSink(target, source, width, height, setup.encoder) as sink:
            Session(read(source), lambda item: isinstance(item, DecodedFrame), engine, sink).run(on_frame)
    target.unlink()


def _peak_rss_bytes() -> int:
    """The most memory that this process ever held: VmHWM, as ru_maxrss starts at its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
