"""One WebSocket session, in its worker process. The way of a frame:

    api -> Intake -> inbox -> slot -> engine -> outbox -> Delivery -> api

Three threads: Intake reads and, for H.264, decodes; `_Filling` puts pictures into slots and gives them to the engine; Delivery,
in the caller's thread, waits for them in order, compresses and sends. A client that reads slowly holds back Delivery, then the
slots, then the inbox, where frames are dropped, the oldest first, or the client is held back in its turn.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from engines.client import RemoteEngine
from engines.host import EngineRequest
from engines.runner import EngineError
from engines.slots import Slot
from server.errors import ServiceError
from server.media.errors import MediaError
from server.media.live_input import FrameLimits, Shape, announced_shape, hush
from server.streams._inbox import Closed, Inbox
from server.streams._ladder import Ladder, OpenEngine
from server.streams._live_delivery import Delivery
from server.streams._live_frames import Broken, Input, Outbox, Planned, Retired, Upscaling, Waiting, code_of
from server.streams._live_intake import Intake
from server.streams._rungs import LiveEngine, Rung
from server.streams._strain import Strain
from server.streams.protocol import LiveOptions, failed
from server.streams.wire import Channel


def run(
    channel: Channel,
    engine_address: str,
    options: dict[str, Any],
    connect: Callable[[str, EngineRequest], LiveEngine] = RemoteEngine,
) -> None:
    """Serves a session until its client ends it or is gone, or it breaks; then the client is told why.

    Args:
        channel: to the api process. Frames come with `protocol.ARRIVAL` before their header, and leave with `protocol.STAGES`.
        engine_address: of the engine process.
        options: see `protocol.LiveOptions`.
        connect: opens an engine there.

    Raises:
        ConnectionError: the api process is gone.
        Exception: a fault in here.
    """
    hush()
    try:
        _Session(channel, LiveOptions.model_validate(options), partial(connect, engine_address)).run()
    except Closed:
        return
    except (MediaError, ServiceError) as error:
        channel.send_json(failed(code_of(error), str(error)))


class _Session:
    """The threads of a session and what lies between them."""

    def __init__(self, channel: Channel, options: LiveOptions, open_engine: OpenEngine) -> None:
        """Raises: DimensionsError: the size that was announced is not upscaled."""
        start = options.start
        limits = FrameLimits(start.scale, options.pixels, options.output_pixels)
        if start.input.width and start.input.height:
            limits.check(start.input.width, start.input.height)
        self._inbox = Inbox[Input](options.frame_queue, evicts=start.late == "drop")
        self._outbox, strain = Outbox(), Strain()
        ladder = Ladder(options.model, start.scale, start.late == "keep", open_engine, strain)
        self._intake = Intake(channel, options, limits, self._inbox, self._outbox, strain)
        self._filling = _Filling(options, ladder, self._inbox, self._outbox, strain)
        self._delivery = Delivery(channel, options, self._outbox, strain)

    def run(self) -> None:
        threading.Thread(target=self._intake.run, name="intake", daemon=True).start()
        filling = threading.Thread(target=self._filling.run, name="filling", daemon=True)
        filling.start()
        try:
            self._delivery.run()
        finally:
            self._inbox.close()
            self._outbox.close()
            self._filling.close()


class _Filling:
    """Takes pictures from the inbox to the engine. `run` is a thread's main function."""

    def __init__(self, options: LiveOptions, ladder: Ladder, inbox: Inbox[Input], outbox: Outbox, strain: Strain) -> None:
        self._options, self._ladder, self._inbox, self._outbox, self._strain = options, ladder, inbox, outbox, strain
        self._droppable = options.start.late == "drop"
        self._shape: Shape | None = None
        self._rung: Rung | None = None

    def run(self) -> None:
        """Works until the inbox has nothing more."""
        words = self._options.start.input
        try:
            if shape := announced_shape(words.format, words.width, words.height):
                self._plan(shape)
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
        deadline = max(waiting.frame.at, rung.since) + self._options.budget_seconds
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
