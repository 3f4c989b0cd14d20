"""uvicorn's HTTP protocol, as this service needs it: nobody holds a connection, or this process's memory, by being slow.

uvicorn itself waits for ever for the end of headers, whatever their size, and for clients that do not read their answers.
Knows nothing of what is served.
"""

import asyncio
import json
from secrets import token_hex
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import ServiceError
from server.service import Service

HEADER_BYTES = 64 * 1024  # of a request, roughly
CRUMBS = 4096
"""Pieces of a body that may be small; beyond them, they hold CRUMB_BYTES each on average."""
CRUMB_BYTES = 64


class Protocol(HttpToolsProtocol):
    """One HTTP connection."""

    def __init__(self, *args: Any, service: Service, connections: int, **options: Any) -> None:
        """Args:
        service: whose settings and metrics are used.
        connections: that may be open at once.
        """
        super().__init__(*args, **options)
        self._service, self._most = service, connections
        self._deadline: asyncio.TimerHandle | None = None  # of headers
        self._patience: asyncio.TimerHandle | None = None  # with a client that does not read
        self._headers_size = self._pieces = self._body_size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()
        if len(self.connections) > 2 * self._most:  # they do not even ask for anything
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes while headers are awaited."""
        deadline = self._deadline
        super().data_received(data)
        if deadline is not None and deadline is self._deadline:
            self._headers_size += len(data)
            if self._headers_size > HEADER_BYTES and not self.transport.is_closing():
                self.refuse(ServiceError("too_large", f"the headers are larger than {HEADER_BYTES} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()
        self._pieces = self._body_size = 0

    def on_headers_complete(self) -> None:
        self._headers_came()
        super().on_headers_complete()
        if len(self.connections) > self._most:
            error = ServiceError("busy", f"{self._most} connections are open already; try again", retry_after=1)
            self.scope["state"]["refusal"] = error

    def on_body(self, body: bytes) -> None:
        """Counts pieces: each costs this process more time than its sender."""
        self._pieces += 1
        self._body_size += len(body)
        if self._pieces > CRUMBS and self._body_size < self._pieces * CRUMB_BYTES:
            text = f"the body came in {self._pieces} pieces of less than {CRUMB_BYTES} bytes; send larger ones"
            self.scope["state"].setdefault("refusal", ServiceError("bad_request", text))
        super().on_body(body)

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer is made."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_watching()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP."""
        self.refuse(ServiceError("bad_request", "this is no HTTP/1.1 request"))

    def refuse(self, error: ServiceError) -> None:
        """Answers a request that never became one, in the form of all errors, and ends the connection."""
        self._service.metrics.rejected_total.labels(error.code).inc()
        detail = {"code": error.code, "message": error.message, "request_id": token_hex(8)}
        body = json.dumps({"error": detail}).encode()
        head = f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _expect_headers(self) -> None:
        """Starts the clock, unless it runs since the connection was made."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._service.settings.header_timeout_seconds, self.transport.close)
            self._headers_size = 0

    def _headers_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _watch(self, unsent: int) -> None:
        """Cuts the connection if there are still as many bytes unsent after a while."""
        self._patience = self.loop.call_later(self._service.settings.slow_consumer_seconds, self._look_again, unsent)

    def _look_again(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent < before:
            self._watch(unsent)
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
