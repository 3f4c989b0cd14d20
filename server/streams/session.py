"""The straight way of a frame: decode -> slot -> engine -> encode, in stages that overlap.

Knows nothing of files, sockets or backends: it is handed a source, a sink and an engine. It runs as well in the command's own
process as in a stream process of the service, and the engine may be local or next door.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from fractions import Fraction
from queue import Queue
from typing import Any, Protocol

import numpy as np

from engines.engine import Engine
from engines.runner import Plane, Planes
from engines.slots import Slot

QUEUE_PACKETS = 256
"""Decoded frames and copied packets that may wait for the encoder; frames are also bounded by the engine's slots."""


class SourceFrame(Protocol):
    """A decoded frame: planes of the engine's input size, rows possibly padded, and its time."""

    @property
    def planes(self) -> Planes: ...
    @property
    def pts(self) -> int: ...
    @property
    def duration(self) -> int: ...
    @property
    def time_base(self) -> Fraction: ...


class Sink(Protocol):
    """Takes upscaled frames and untouched packets, in the order in which the source gave them."""

    def encode(self, picture: Plane, pts: int, duration: int) -> None: ...
    def copy(self, packet: Any) -> None: ...


@dataclass
class StageTimes:
    """Seconds that each frame spent in each stage, waiting not counted."""

    decode: list[float] = field(default_factory=list)
    infer: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)

    def milliseconds(self) -> dict[str, dict[str, float]]:
        """Median and 95th percentile of each stage."""
        return {name: _percentiles(values) for name, values in vars(self).items()}


@dataclass(frozen=True)
class _Upscaling:
    """A frame on its way through the engine."""

    slot: Slot
    done: Future[float]
    pts: int
    duration: int


@dataclass(frozen=True)
class _End:
    """The source has no more, or broke."""

    error: BaseException | None


class Session:
    """Upscales everything that a source gives into a sink; frames are never dropped."""

    def __init__(self, source: Iterable[Any], is_frame: Callable[[Any], bool], engine: Engine, sink: Sink) -> None:
        """Args:
        source: frames (see SourceFrame) and packets to copy, in file order.
        is_frame: tells the two apart.
        engine: with a pool of slots of the source's size.
        sink: where everything goes.
        """
        self._source, self._is_frame, self._engine, self._sink = source, is_frame, engine, sink
        self._queue: Queue[Any] = Queue(QUEUE_PACKETS)
        self._stopped = threading.Event()
        self.times = StageTimes()
        self.frames = 0

    def run(self, on_frame: Callable[[int], None] = lambda frames: None) -> None:
        """Runs until the source ends.

        Args:
            on_frame: called with the number of frames encoded so far, after each.

        Raises:
            Whatever source, engine or sink raised first; everything is stopped by then.
        """
        decoder = threading.Thread(target=self._decode, name="decode")
        decoder.start()
        try:
            while not isinstance(item := self._queue.get(), _End):
                if isinstance(item, _Upscaling):
                    self._encode(item)
                    on_frame(self.frames)
                else:
                    self._sink.copy(item)
            if item.error:
                raise item.error
        finally:
            self._stop(decoder)

    def _decode(self) -> None:
        """The decoder's thread: fills slots, hands them to the engine and, in the same order, to the encoder."""
        error: BaseException | None = None
        try:
            started = time.perf_counter()
            for item in self._source:
                if self._stopped.is_set():
                    break
                self._queue.put(self._upscaling(item, started) if self._is_frame(item) else item)
                started = time.perf_counter()
        except BaseException as caught:  # whatever it is, it belongs to the thread that runs the session
            error = caught
        self._queue.put(_End(error))

    def _upscaling(self, frame: SourceFrame, started: float) -> _Upscaling:
        decoded = time.perf_counter() - started
        slot = self._engine.pool.acquire()
        started = time.perf_counter()
        for plane, decoded_plane in zip(slot.inputs, frame.planes, strict=True):
            np.copyto(plane, decoded_plane)
        self.times.decode.append(decoded + time.perf_counter() - started)
        return _Upscaling(slot, self._engine.submit(slot), frame.pts, frame.duration)

    def _encode(self, item: _Upscaling) -> None:
        try:
            self.times.infer.append(item.done.result())
            started = time.perf_counter()
            self._sink.encode(item.slot.picture, item.pts, item.duration)
            self.times.encode.append(time.perf_counter() - started)
            self.frames += 1
        finally:
            self._engine.pool.release(item.slot)

    def _stop(self, decoder: threading.Thread) -> None:
        """Ends the decoder's thread, wherever it waits, and waits for frames that the engine still writes."""
        self._stopped.set()
        while decoder.is_alive() or not self._queue.empty():
            if self._queue.empty():
                decoder.join(0.01)
                continue
            item = self._queue.get()
            if isinstance(item, _Upscaling):
                item.done.exception()
                self._engine.pool.release(item.slot)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"p50": 0.0, "p95": 0.0}
    p50, p95 = np.percentile(np.array(seconds) * 1000, [50, 95])
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}
