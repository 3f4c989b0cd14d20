"""From the inbox to the engine: pictures of a live stream are put into slots and upscaled.

Knows nothing of where they come from, or where they go.
"""

import time
from concurrent.futures import Future

from engines.runner import EngineError
from engines.slots import Slot
from server.errors import ServiceError
from server.media.errors import MediaError
from server.media.live_picture import Shape
from server.streams._inbox import Closed, Inbox
from server.streams._ladder import Ladder
from server.streams._live_frames import Broken, Input, Outbox, Planned, Retired, Upscaling, Waiting
from server.streams._rungs import Rung
from server.streams._strain import Strain


class Filling:
    """Takes pictures from the inbox to the engine. `run` is a thread's main function."""

    def __init__(
        self,
        first: Shape | None,
        budget_seconds: float,
        droppable: bool,
        ladder: Ladder,
        inbox: Inbox[Input],
        outbox: Outbox,
        strain: Strain,
    ) -> None:
        """Args:
        first: what will come, where that is known before it comes: everything is made ready for it.
        budget_seconds: from a frame's arrival until it is late.
        droppable: late frames are dropped.
        ladder: what upscales them.
        inbox: where pictures come from.
        outbox: where they go.
        strain: to be told of drops.
        """
        self._first, self._budget_seconds, self._droppable = first, budget_seconds, droppable
        self._ladder, self._inbox, self._outbox, self._strain = ladder, inbox, outbox, strain
        self._shape: Shape | None = None
        self._rung: Rung | None = None

    def run(self) -> None:
        """Works until the inbox has nothing more."""
        try:
            if self._first:
                self._plan(self._first)
            while isinstance(item := self._inbox.get(), Waiting):
                self._fill(item)
            self._outbox.put_last(item)
        except Closed:
            self._outbox.close()
        except BaseException as error:  # whatever it is, it belongs to the thread that talks to the client
            self._outbox.put_last(Broken(error))

    def close(self) -> None:
        """Leaves the engine. The thread may still run: it ends with the process."""
        self._ladder.close()
        if self._rung:
            self._rung.close()

    def _fill(self, waiting: Waiting) -> None:
        """Decodes a picture into a slot and gives it to the engine, unless it is late."""
        sequence = waiting.frame.sequence
        rung, slot = self._slot(waiting.picture.shape)
        deadline = max(waiting.frame.at, rung.since) + self._budget_seconds
        started = time.monotonic()
        if self._droppable and started > deadline:
            rung.pool.release(slot)
            self._outbox.drop(sequence, "late")
            self._strain.lost()
            return
        try:
            waiting.picture.fill(slot.inputs)
        except (MediaError, ServiceError) as error:
            rung.pool.release(slot)
            self._outbox.fail(sequence, error)
            return
        submitted, done_at = time.monotonic(), list[float]()
        done: Future[float] = rung.submit(slot, deadline, self._droppable)
        done.add_done_callback(lambda _: done_at.append(time.monotonic()))
        decoded = waiting.decode_seconds + submitted - started
        self._outbox.put(Upscaling(waiting.frame, rung, slot, done, deadline, submitted, done_at, decoded))

    def _slot(self, shape: Shape) -> tuple[Rung, Slot]:
        """A free slot of the rung for this shape; waits until there is one. A rung may die meanwhile."""
        while True:
            rung = self._current(shape)
            slot = rung.pool.acquire()
            if not rung.dead:
                return rung, slot
            rung.pool.release(slot)

    def _current(self, shape: Shape) -> Rung:
        if self._rung is None or shape != self._shape:
            return self._plan(shape)
        if better := self._ladder.better(self._rung, shape):
            self._climb(better)
        return self._rung

    def _plan(self, shape: Shape) -> Rung:
        """Has everything made ready for frames of this shape."""
        try:
            rung = self._ladder.find(shape)
        except EngineError as error:
            size = f"{shape.width}x{shape.height}"
            text = f"the engine does not upscale {size} with this model; try another size or model"
            raise ServiceError("engine_unavailable", text) from error
        self._shape = shape
        self._climb(rung)
        self._outbox.put(Planned(shape, rung))
        return rung

    def _climb(self, rung: Rung) -> None:
        """Uses `rung` from now on. The one before ends once its frames are answered."""
        if self._rung:
            self._outbox.put(Retired(self._rung))
        self._rung = rung
