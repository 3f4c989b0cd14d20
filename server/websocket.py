"""uvicorn's WebSocket protocol, as sessions of this service need it: nobody is cut off for our slowness, and nobody can stay.

Rests on attributes of uvicorn's class that are not documented; the tests notice when they change. Knows nothing of the words.
"""

from asyncio.transports import BaseTransport

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

HURRY = "hurry"
"""Set in the scope's state by a handler that will not wait any more for a client that does not read."""

FRAGMENTS = 4096
"""Pieces of one message, at most: each takes more memory than its bytes."""


class Protocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._heard_at = self.loop.time()

    async def send(self, message: ASGISendEvent) -> None:
        """Sends; waits for a client that reads slowly, unless this is the last word."""
        closes = message["type"] == "websocket.close"
        if self.close_sent:
            raise ClientDisconnected
        if closes or self.scope["state"].get(HURRY):
            self.writable.set()
        await super().send(message)
        if closes and self.close_timer:
            self._end_after_a_while()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        if self.conn.parser_exc is None:
            super().data_received(data)

    def handle_cont(self, event: Frame) -> None:
        """Another piece of a message."""
        if self.conn.parser_exc is not None:
            return
        super().handle_cont(event)
        if len(self.frames) > FRAGMENTS:
            self.frames.clear()
            self.conn.parser_exc = ValueError("a message in crumbs")
            self.conn.fail(1009, f"a message has at most {FRAGMENTS} fragments")
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        """Answers, unless earlier answers were not read: they would pile up."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_parser_exception(self) -> None:
        """The client broke the rules, or its message is too large. While it still sends, it only hears why if we listen."""
        close = self.conn.close_sent
        assert close is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self._end_after_a_while()

    def keepalive_timeout(self) -> None:
        """No pong came. It may stand behind frames that wait for us to read them; then there is time."""
        assert self.ping_timeout is not None
        if self.read_paused or self.loop.time() - self._heard_at < self.ping_timeout:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.loop.call_soon(self.transport.abort)

    def _end_after_a_while(self) -> None:
        """Ends the connection even if the client never reads what is still to be sent."""
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
