"""What upscales the frames of a live stream: a network in the engine process, and interpolation here while there is none.

Knows nothing of clients or codecs.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from engines.host import EngineReady, EngineRequest
from engines.runner import EngineDeadError, EngineError, Plane, Planes
from engines.slots import FrameFormat, Slot, SlotPool
from server.media.live_input import Shape
from server.media.scale import Bicubic

SLOTS = 4
"""Frames of one stream on their way at once: one being filled, one being computed, one that waits, one being encoded."""

RETRY_SECONDS = 0.5

OPEN_SECONDS = 1.0
"""How long a live stream waits for its engine before it goes on with interpolation: one that was never tried takes longer."""

FALLBACK = "bicubic"
"""The model that needs no engine."""

ENGINE_GONE, ENGINE_BACK = "engine_unavailable", "engine_back"
"""Why a stream's model changes."""


class LiveEngine(Protocol):
    """What is needed of `engines.client.RemoteEngine`."""

    pool: SlotPool
    ready: EngineReady

    def submit(self, slot: Slot, deadline: float | None = None, droppable: bool = False) -> Future[float]: ...
    def close(self) -> None: ...


T = TypeVar("T")

OpenEngine = Callable[[EngineRequest], LiveEngine]


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

    def __init__(self, model: str, engine: LiveEngine) -> None:
        self.model, self.reason = model, ENGINE_BACK
        self.engine, self.precision = engine.ready.backend, engine.ready.precision
        self.pool, self.since, self.dead = engine.pool, time.monotonic(), False
        self._engine = engine

    def submit(self, slot: Slot, deadline: float, droppable: bool) -> Future[float]:
        try:
            future = self._engine.submit(slot, deadline, droppable)
        except EngineDeadError as error:
            future = _failed(error)
        future.add_done_callback(self._notice)
        return future

    def close(self) -> None:
        self._engine.close()

    def _notice(self, future: Future[float]) -> None:
        if isinstance(future.exception(), EngineDeadError):
            self.dead = True


class BicubicRung:
    """swscale in this process, and a look-out for the engine to come back."""

    def __init__(
        self, frames: FrameFormat, reopen: Callable[[], LiveEngine], opening: Future[LiveEngine] | None = None
    ) -> None:
        """Args:
        frames: of its slots.
        reopen: tries to have an engine.
        opening: a try that is under way.
        """
        self.model, self.reason, self.engine, self.precision = FALLBACK, ENGINE_GONE, "swscale", "int16"
        self.pool, self.since, self.dead = SlotPool(frames, SLOTS), time.monotonic(), False
        self._bicubic, self._reopen, self._opening = Bicubic(frames.form, frames.scale), reopen, opening
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._engine: LiveEngine | None = None
        threading.Thread(target=self._look_out, name="look-out", daemon=True).start()

    def submit(self, slot: Slot, deadline: float, droppable: bool) -> Future[float]:
        started, future = time.perf_counter(), Future[float]()
        self._bicubic.upscale(slot.inputs, slot.outputs)
        future.set_result(time.perf_counter() - started)
        return future

    def engine_back(self) -> LiveEngine | None:
        """The engine, once it is there again; it belongs to the caller then."""
        with self._lock:
            engine, self._engine = self._engine, None
            return engine

    def close(self) -> None:
        self._closed.set()
        self._close_engine()
        self.pool.close()

    def _look_out(self) -> None:
        opening = self._opening or _failed(EngineDeadError("it is gone"))
        while not self._closed.is_set():
            try:
                engine = opening.result()
            except EngineDeadError:
                self._closed.wait(RETRY_SECONDS)
                opening = _settled(self._reopen)
            except EngineError:  # it says no, and will again
                return
            else:
                with self._lock:
                    self._engine = engine
                break
        if self._closed.is_set():
            self._close_engine()

    def _close_engine(self) -> None:
        """Closes an engine that nobody has asked for."""
        if engine := self.engine_back():
            engine.close()


class Spare:
    """Upscales frames that an engine was given and never finished, beside its memory: it might still write there."""

    def __init__(self, frames: FrameFormat) -> None:
        self._pool = SlotPool(frames, 1)
        self._slot, self._bicubic = self._pool.acquire(), Bicubic(frames.form, frames.scale)

    def upscale(self, inputs: Planes) -> Plane:
        """The picture, valid until the next one."""
        self._bicubic.upscale(inputs, self._slot.outputs)
        return self._slot.picture


@dataclass(frozen=True)
class Ladder:
    """Finds the rung for frames of one shape."""

    model: str
    scale: int
    patient: bool  # frames can wait for the engine
    open_engine: OpenEngine

    def find(self, shape: Shape) -> Rung:
        """The network if there is an engine, else interpolation.

        Raises:
            EngineError: the engine says no.
        """
        opening = Future[LiveEngine]()
        threading.Thread(target=_settle, args=(opening, partial(self._open, shape)), name="opening", daemon=True).start()
        try:
            return NetworkRung(self.model, opening.result(None if self.patient else OPEN_SECONDS))
        except (EngineDeadError, TimeoutError):
            return BicubicRung(self.frames(shape), partial(self._open, shape), opening)

    def better(self, rung: Rung, shape: Shape) -> Rung | None:
        """What to use in place of `rung` from now on, if anything: it is dead, or the engine is back."""
        if rung.dead:
            return BicubicRung(self.frames(shape), partial(self._open, shape))
        if isinstance(rung, BicubicRung) and (engine := rung.engine_back()):
            return NetworkRung(self.model, engine)
        return None

    def frames(self, shape: Shape) -> FrameFormat:
        """What the slots of a rung hold."""
        return FrameFormat(shape.form, self.scale, shape.width, shape.height)

    def _open(self, shape: Shape) -> LiveEngine:
        graphs = f"{self.model}-x{self.scale}-{shape.form}"
        return self.open_engine(EngineRequest(graphs, shape.width, shape.height, shape.colour, "latency", SLOTS))


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _settled(call: Callable[[], T]) -> Future[T]:
    future = Future[T]()
    _settle(future, call)
    return future


def _failed(error: Exception) -> Future[Any]:
    future = Future[Any]()
    future.set_exception(error)
    return future
