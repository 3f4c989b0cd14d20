"""Each stage of `fourfold video` alone, in processor time: what a frame costs before anything stands in anything's way."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.choose import Choice
from engines.engine import LocalEngine
from engines.runner import Plane
from server.bench.measure import flood
from server.media.decode import DecodedFrame, VideoSource
from server.media.encode import EncoderSettings, VideoSink
from server.video_engines import FRAMES_ON_THE_WAY

PICTURE_BYTES = 1 << 29  # of upscaled pictures that are kept to be encoded
WARM_UP = 0.25
"""The share of all frames, the first ones, that is not counted where an encoder works: its look-ahead fills meanwhile."""


@dataclass(frozen=True)
class Setup:
    """What runs.

    Attributes:
        clip: a video file, the source of every stream.
        choice: backend, network, size and layout.
        encoder: its settings.
    """

    clip: Path
    choice: Choice
    encoder: EncoderSettings

    def slots(self, streams: int) -> int:
        """As many as `fourfold video` has, and those of further streams."""
        layout = self.choice.spec.layout
        return layout.lanes * layout.batch + streams * FRAMES_ON_THE_WAY

    def engine(self, streams: int) -> LocalEngine:
        """One for all streams."""
        return LocalEngine(self.choice.backend, self.choice.spec, self.slots(streams))


@dataclass(frozen=True)
class Stages:
    """What a frame costs in each stage.

    Attributes:
        decode_core_ms, infer_core_ms, encode_core_ms: processor milliseconds of all threads together.
        infer_ms: wall milliseconds a frame while the engine is full.
    """

    decode_core_ms: float
    infer_core_ms: float
    encode_core_ms: float
    infer_ms: float

    @property
    def core_ms(self) -> float:
        """Of the three together."""
        return self.decode_core_ms + self.infer_core_ms + self.encode_core_ms


def measure_stages(setup: Setup, folder: Path) -> Stages:
    """Decodes the clip, infers its frames, encodes what came out, one after the other; to be called in a process of its own."""
    with setup.engine(1) as engine:
        pictures = _upscaled(setup, engine)
        work = flood(engine.submit, engine.pool.slots)
        walls: list[float] = []
        infer = _core_ms(lambda: walls.append(work(len(pictures))), len(pictures))
    return Stages(_decode(setup), infer, _encode(setup, pictures, folder / "stage.mp4"), walls[0])


def _core_ms(work: Callable[[], object], frames: int) -> float:
    """Processor milliseconds a frame of everything that this process does meanwhile."""
    started = time.process_time()
    work()
    return (time.process_time() - started) * 1000 / frames


def _upscaled(setup: Setup, engine: LocalEngine) -> list[Plane]:
    """The clip's first frames as the encoder gets them; every slot is filled on the way."""
    pictures = list[Plane]()
    with VideoSource(setup.clip) as source:
        for item in source.read():
            if not isinstance(item, DecodedFrame):
                continue
            slot = engine.pool.slots[len(pictures) % engine.pool.count]
            for plane, decoded in zip(slot.inputs, item.planes, strict=True):
                np.copyto(plane, decoded)
            engine.submit(slot).result()
            pictures.append(slot.picture.copy())
            if len(pictures) * slot.picture.nbytes > PICTURE_BYTES:
                break
    return pictures


def _decode(setup: Setup) -> float:
    with VideoSource(setup.clip) as source:
        frames: list[bool] = []
        started = time.process_time()
        frames.extend(isinstance(item, DecodedFrame) for item in source.read())
        return (time.process_time() - started) * 1000 / sum(frames)


def _encode(setup: Setup, pictures: list[Plane], target: Path) -> float:
    """Without the first ones, which fill the encoder's look-ahead, and without emptying it at the end: as runs are counted."""
    height, width = setup.choice.spec.output_planes(*_size(setup))[0]
    first, started = int(WARM_UP * len(pictures)), 0.0
    with VideoSource(setup.clip) as source, VideoSink(target, source, width, height, setup.encoder) as sink:
        step = round(1 / ((source.frame_rate or 25) * source.time_base))
        for i, picture in enumerate(pictures):
            if i == first:
                started = time.process_time()
            sink.encode(picture, i * step, step)
        return (time.process_time() - started) * 1000 / (len(pictures) - first)


def _size(setup: Setup) -> tuple[int, int]:
    spec = setup.choice.spec
    assert spec.width and spec.height
    return spec.height, spec.width
