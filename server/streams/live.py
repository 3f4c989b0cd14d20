"""One WebSocket session, in its worker process. The way of a frame:

    api -> Intake -> inbox -> slot -> engine -> outbox -> Delivery -> api

Three threads: Intake reads and, for H.264, decodes; Filling puts pictures into slots and gives them to the engine; Delivery,
in the caller's thread, waits for them in order, compresses and sends. A client that reads slowly holds back Delivery, then the
slots, then the inbox, where frames are dropped, the oldest first, or the client is held back in its turn.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from engines.client import RemoteEngine
from engines.host import EngineRequest
from server.errors import ServiceError
from server.media.errors import MediaError
from server.media.live_input import announced_shape
from server.media.live_picture import FrameLimits
from server.media.quiet import hush
from server.streams._inbox import Closed, Inbox
from server.streams._ladder import Ladder, OpenEngine
from server.streams._live_delivery import Delivery
from server.streams._live_filling import Filling
from server.streams._live_frames import Input, Outbox, code_of
from server.streams._live_intake import Intake
from server.streams._rungs import LiveEngine
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
        words, drops = start.input, start.late == "drop"
        shape = announced_shape(words.format, words.width, words.height)
        self._filling = Filling(shape, options.budget_seconds, drops, ladder, self._inbox, self._outbox, strain)
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
