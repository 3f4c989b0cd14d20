"""What upscales the frames of a live stream: a network in the engine process, or interpolation here.

Knows nothing of clients or codecs, nor of when to take which; see `_ladder`.
"""

import time
from concurrent.futures import Future
from typing import Protocol

from engines.host import EngineReady
from engines.runner import EngineDeadError, Plane, Planes
from engines.slots import FrameFormat, Slot, SlotPool
from server.media.scale import Bicubic

SLOTS = 4
"""Frames of one stream on their way at once: one being filled, one being computed, one that waits, one being encoded."""

FALLBACK = "bicubic"
"""The model that needs no engine."""

SWSCALE = ("swscale", "int16")
"""What computes it, and in which precision."""


class LiveEngine(Protocol):
    """What is needed of `engines.client.RemoteEngine`."""

    pool: SlotPool
    ready: EngineReady

    def submit(self, slot: Slot, deadline: float | None = None, droppable: bool = False) -> Future[float]: ...
    def close(self) -> None: ...


class Rung(Protocol):
    """Upscales frames of one shape.

    Attributes:
        model: its name.
        reason: why it is this one, when it was another before.
        engine: what computes, and
        precision: in which it does.
        pool: the slots of its frames.
        since: when it was ready, in seconds of `time.monotonic`.
        dead: it is of no more use.
    """

    model: str
    reason: str
    engine: str
    precision: str
    pool: SlotPool
    since: float
    dead: bool

    def submit(self, slot: Slot, deadline: float, droppable: bool) -> Future[float]:
        """See `engines.client.RemoteEngine.submit`; here, an engine that is gone is always told by the future."""
        ...

    def close(self) -> None:
        """Frees it; its slots must not be used any more."""
        ...


class NetworkRung:
    """An engine of the engine process."""

    def __init__(self, model: str, engine: LiveEngine, reason: str) -> None:
        self.model, self.reason = model, reason
        self.engine, self.precision = engine.ready.backend, engine.ready.precision
        self.pool, self.since, self.dead = engine.pool, time.monotonic(), False
        self._engine = engine

    def submit(self, slot: Slot, deadline: float, droppable: bool) -> Future[float]:
        try:
            future = self._engine.submit(slot, deadline, droppable)
        except EngineDeadError as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(self._notice)
        return future

    def close(self) -> None:
        self._engine.close()

    def _notice(self, future: Future[float]) -> None:
        if isinstance(future.exception(), EngineDeadError):
            self.dead = True


class BicubicRung:
    """swscale in this process."""

    def __init__(self, frames: FrameFormat, reason: str) -> None:
        self.model, self.reason = FALLBACK, reason
        self.engine, self.precision = SWSCALE
        self.pool, self.since, self.dead = SlotPool(frames, SLOTS), time.monotonic(), False
        self._bicubic = Bicubic(frames.form, frames.scale)

    def submit(self, slot: Slot, deadline: float, droppable: bool) -> Future[float]:
        started, future = time.perf_counter(), Future[float]()
        self._bicubic.upscale(slot.inputs, slot.outputs)
        future.set_result(time.perf_counter() - started)
        return future

    def close(self) -> None:
        self.pool.close()


class Spare:
    """Upscales frames that an engine was given and never finished, beside its memory: it might still write there."""

    def __init__(self, frames: FrameFormat) -> None:
        self._pool = SlotPool(frames, 1)
        self._slot, self._bicubic = self._pool.acquire(), Bicubic(frames.form, frames.scale)

    def upscale(self, inputs: Planes) -> Plane:
        """The picture, valid until the next one."""
        self._bicubic.upscale(inputs, self._slot.outputs)
        return self._slot.picture

    def close(self) -> None:
        """Lets go of its memory."""
        self._pool.close()
