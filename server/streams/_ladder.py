"""Which rung a live stream stands on: its network; a lighter one, then interpolation, while the engine cannot keep up; and
interpolation while there is no engine. It never waits long, and comes back up when there is room.

Knows nothing of clients or codecs.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from engines.host import EngineRequest
from engines.runner import EngineDeadError, EngineError
from engines.slots import FrameFormat
from server.media.live_picture import Shape
from server.streams._rungs import SLOTS, BicubicRung, LiveEngine, NetworkRung, Rung
from server.streams._strain import Strain

LIGHTER = {"swift-srgan": "xlsr", "swift-srgan-psnr": "xlsr"}
"""The network to take in place of a heavy one."""

ENGINE_GONE, ENGINE_BACK, OVERLOAD, RECOVERED = "engine_unavailable", "engine_back", "overload", "recovered"
"""Why a stream's model changes."""

RETRY_SECONDS = 0.5
"""Between two tries to reach an engine that is gone."""

OPEN_SECONDS = 1.0
"""How long a live stream waits for an engine before it goes on without: one that was never tried takes longer."""

RISE_SECONDS, MAX_RISE_SECONDS = 10.0, 160.0
"""Until a stream tries the rung above again; twice as long each time that it did not stay there for STAY_SECONDS."""
STAY_SECONDS = 60.0

OpenEngine = Callable[[EngineRequest], LiveEngine]


class Opening:
    """Tries to open an engine until there is one, in a thread of its own."""

    def __init__(self, open_engine: Callable[[], LiveEngine]) -> None:
        self._open = open_engine
        self._result: LiveEngine | BaseException | None = None
        self._lock, self._tried, self._closed = threading.Lock(), threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="opening", daemon=True).start()

    def wait(self, seconds: float | None) -> None:
        """Until it was tried once, or so many seconds (None: for ever)."""
        self._tried.wait(seconds)

    def take(self) -> LiveEngine | None:
        """The engine, once it is there; it belongs to the caller then.

        Raises:
            EngineError: it says no, and will again.
        """
        with self._lock:
            result, self._result = self._result, None
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """Nobody waits for it any more."""
        self._closed.set()
        self._discard()

    def _run(self) -> None:
        while self._result is None and not self._closed.is_set():
            try:
                result: LiveEngine | BaseException = self._open()
            except EngineDeadError:
                self._tried.set()
                self._closed.wait(RETRY_SECONDS)
                continue
            except BaseException as error:  # whatever it is, it belongs to whoever asks
                result = error
            with self._lock:
                self._result = result
            break
        self._tried.set()
        if self._closed.is_set():
            self._discard()

    def _discard(self) -> None:
        with self._lock:
            result, self._result = self._result, None
        if result is not None and not isinstance(result, BaseException):
            result.close()


@dataclass(frozen=True)
class _Move:
    """A change to another network, as soon as its engine is there."""

    level: int
    reason: str
    opening: Opening


class Ladder:
    """Finds the rung for the frames of one stream; one thread at a time."""

    def __init__(
        self,
        model: str,
        scale: int,
        patient: bool,
        open_engine: OpenEngine,
        strain: Strain,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        model: that is wanted.
        scale: of it.
        patient: no frame may be lost, so that each can wait; the stream never leaves its network for being slow.
        open_engine: opens an engine.
        strain: whether frames get through.
        clock: seconds.
        """
        self._models = [model, LIGHTER[model]] if model in LIGHTER else [model]
        self._scale, self._patient, self._open_engine, self._strain, self._clock = scale, patient, open_engine, strain, clock
        self._level = 0  # in `_models`; beyond its end is interpolation
        self._move: _Move | None = None
        self._rise_at, self._risen_at, self._pause = math.inf, -math.inf, RISE_SECONDS

    def find(self, shape: Shape) -> Rung:
        """A rung for frames of another shape.

        Raises:
            EngineError: the engine says no.
        """
        self.close()
        self._strain.reset()
        if self._level == len(self._models):
            return BicubicRung(self._frames(shape), OVERLOAD)
        self._begin(self._level, ENGINE_BACK, shape)
        assert self._move
        self._move.opening.wait(None if self._patient else OPEN_SECONDS)
        return self._arrived() or BicubicRung(self._frames(shape), ENGINE_GONE)

    def better(self, rung: Rung, shape: Shape) -> Rung | None:
        """What to use in place of `rung` from now on, if anything."""
        if rung.dead:
            self.close()
            self._begin(self._level, ENGINE_BACK, shape)
            return BicubicRung(self._frames(shape), ENGINE_GONE)
        if self._move:
            return self._arrived_or_stay()
        return None if self._patient else self._step(shape)

    def close(self) -> None:
        """Gives up what it waits for."""
        if self._move:
            self._move.opening.close()
            self._move = None

    def _step(self, shape: Shape) -> Rung | None:
        """A rung down if too many frames are lost, or up if it was long ago that they were."""
        now = self._clock()
        if self._strain.is_too_much() and self._level < len(self._models):
            fell_back = now - self._risen_at < STAY_SECONDS
            self._pause = min(2 * self._pause, MAX_RISE_SECONDS) if fell_back else RISE_SECONDS
            self._rise_at = now + self._pause
            return self._go(self._level + 1, OVERLOAD, shape)
        if self._level and now >= self._rise_at:
            self._rise_at = now + self._pause
            return self._go(self._level - 1, RECOVERED, shape)
        return None

    def _go(self, level: int, reason: str, shape: Shape) -> Rung | None:
        if level == len(self._models):
            self._level = level
            return BicubicRung(self._frames(shape), reason)
        self._begin(level, reason, shape)
        return None

    def _begin(self, level: int, reason: str, shape: Shape) -> None:
        graphs = f"{self._models[min(level, len(self._models) - 1)]}-x{self._scale}-{shape.form}"
        request = EngineRequest(graphs, shape.width, shape.height, shape.colour, "latency", SLOTS)
        self._move = _Move(level, reason, Opening(lambda: self._open_engine(request)))

    def _arrived(self) -> Rung | None:
        """The rung that is waited for, if it is there."""
        assert self._move
        level, reason = self._move.level, self._move.reason
        engine = self._move.opening.take()
        if engine is None:
            return None
        if reason == RECOVERED:
            self._risen_at = self._clock()
        self._level, self._move = level, None
        self._strain.reset()
        return NetworkRung(self._models[level], engine, reason)

    def _arrived_or_stay(self) -> Rung | None:
        try:
            return self._arrived()
        except EngineError:  # it was there before, and is refused now: what there is has to do
            self.close()
            return None

    def _frames(self, shape: Shape) -> FrameFormat:
        return FrameFormat(shape.form, self._scale, shape.width, shape.height)
