"""One live relay, in its worker process. The way of a frame:

    source -> RelayIntake -> inbox -> slot -> engine -> outbox -> RelayDelivery -> Egress -> target

Four threads: the intake reads, decodes and places everything in time; filling takes pictures to the engine; the delivery, in
the caller's thread, encodes what comes back, and the last picture again when nothing does; the egress sends. Nobody waits for
the target: what it does not take is dropped. What the two sides say to each other: `server.streams.relay_protocol`.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from engines.client import RemoteEngine
from engines.host import EngineRequest
from models.errors import FourfoldError
from server.media.paced_file import PacedFile
from server.media.quiet import hush
from server.media.rtmp import RtmpSource
from server.streams._egress import Egress
from server.streams._inbox import Closed, Inbox
from server.streams._ladder import Ladder, OpenEngine
from server.streams._live_filling import Filling
from server.streams._live_frames import Input, Outbox, code_of
from server.streams._relay_delivery import RelayDelivery
from server.streams._relay_intake import RelayIntake, Source
from server.streams._relay_ledger import Ledger
from server.streams._rungs import LiveEngine
from server.streams._strain import Strain
from server.streams.relay_protocol import RelayOptions, SourceReason, message
from server.streams.wire import Channel

REPORT_SECONDS = 0.25
"""Between two messages about frames."""


def run(
    channel: Channel,
    engine_address: str,
    options: dict[str, Any],
    connect: Callable[[str, EngineRequest], LiveEngine] = RemoteEngine,
) -> None:
    """Relays until the source is over or `stop` comes, or it cannot go on; then says why.

    Args:
        channel: to the api process, or whoever else runs a relay; see `relay_protocol`.
        engine_address: of the engine process.
        options: see `RelayOptions`.
        connect: opens an engine there.

    Raises:
        ConnectionError: nobody listens any more.
        Exception: a fault in here.
    """
    hush()
    relay = _Relay(channel, RelayOptions.model_validate(options), partial(connect, engine_address))
    try:
        relay.run()
    except Closed:
        return
    except FourfoldError as error:
        channel.send_json(message("error", code=code_of(error), message=str(error)))
    else:
        channel.send_json(message("ended", reason="the source has ended"))


class _Relay:
    """The threads of a relay and what lies between them."""

    def __init__(self, channel: Channel, options: RelayOptions, open_engine: OpenEngine) -> None:
        self._channel, self._ledger, self._over = channel, Ledger(), threading.Event()
        self._inbox = Inbox[Input](options.frame_queue, evicts=True)
        self._outbox, strain = Outbox(), Strain()
        ladder = Ladder(options.model, options.scale, False, open_engine, strain)
        self._egress = Egress(options.target, options.target_timeout_seconds, self._target_lost)
        opened = partial(_open_source, options)
        tell = channel.send_json
        begun = self._egress.connect
        self._intake = RelayIntake(options, opened, begun, self._inbox, self._outbox, strain, self._ledger, tell)
        self._filling = Filling(None, options.budget_seconds, True, ladder, self._inbox, self._outbox, strain)
        fps = lambda: self._intake.fps  # noqa: E731
        self._delivery = RelayDelivery(options, fps, self._outbox, strain, self._egress, self._ledger, tell)

    def run(self) -> None:
        for name, work in (
            ("intake", self._intake.run),
            ("filling", self._filling.run),
            ("report", self._report),
            ("orders", self._obey),
        ):
            threading.Thread(target=work, name=name, daemon=True).start()
        self._egress.start()
        try:
            self._delivery.run()
            self._egress.close()
        except FourfoldError:
            self._egress.close()  # what was made before is still sent
            raise
        finally:
            self._over.set()
            self._inbox.close()
            self._outbox.close()
            self._filling.close()
            with suppress(ConnectionError):
                self._channel.send_json(self._ledger.told())

    def _report(self) -> None:
        while not self._over.wait(REPORT_SECONDS):
            self._channel.send_json(self._ledger.told())

    def _obey(self) -> None:
        """Waits for `stop`, the only thing that is ever said; hanging up says it too, and the rest is not wanted."""
        if self._channel.receive() is None:
            self._outbox.close()
        else:
            self._intake.stop()

    def _target_lost(self, reason: SourceReason) -> None:
        self._channel.send_json(message("reconnect", side="target", reason=reason))


def _open_source(options: RelayOptions) -> Source:
    source = options.source
    parts = urlsplit(source.url)
    if parts.scheme == "file":
        return PacedFile(Path(unquote(parts.path)))
    return RtmpSource(source.url, source.address, options.source_timeout_seconds)
