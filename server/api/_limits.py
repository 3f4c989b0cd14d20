"""How large a request's body may be and how slowly it may come. Holds none of it: counts while it passes by."""

import asyncio

import anyio
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access import Caller
from server.api._dependencies import service_of
from server.errors import ServiceError
from server.settings import Settings

OTHER_BYTES = 64 * 1024
"""Of a body that is neither picture nor video."""

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is thrown away: who hangs up on a client that still sends, it hears no answer from."""


class BodyLimits:
    """ASGI middleware: handlers that read a body that is too large or too slow get a ServiceError instead of its rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            body = _Body(scope, receive, send)
            receive, send = body.receive, body.send
        await self._app(scope, receive, send)


class _Body:
    """The body of one request, on its way to whoever reads it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._scope, self._receive, self._send = scope, receive, send
        self._declared = int(headers.get("content-length", "0"))
        self._expected = "expect" in headers  # the client waits for word before it sends the body
        self._complete = not self._declared and "transfer-encoding" not in headers
        self._received = 0

    async def receive(self) -> Message:
        """The next piece.

        Raises:
            ServiceError: too_large, slow_body, or bad_request for a body in crumbs.
        """
        if self._complete:
            return await self._receive()
        settings = service_of(HTTPConnection(self._scope)).settings
        limit = _limit(settings, self._scope)
        self._check(self._declared, limit)
        try:
            async with asyncio.timeout(settings.body_timeout_seconds):
                message = await self._receive()
        except TimeoutError:
            waited = f"{settings.body_timeout_seconds:g} s"
            raise ServiceError("slow_body", f"no byte came for {waited}; {self._received} bytes had come") from None
        self._received += len(message.get("body", b""))
        self._check(self._received, limit)
        if refusal := self._scope["state"].get("refusal"):  # of the connection, see `server.connection`
            raise refusal
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Passes the answer on. The connection of a body that nobody read to its end is of no more use."""
        if self._complete or message.get("more_body", False):
            await self._send(message)
        elif message["type"] == "http.response.start":
            await self._send({**message, "headers": [*message["headers"], (b"connection", b"close")]})
        else:
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body"})

    async def _linger(self) -> None:
        """Reads and forgets what the client still sends."""
        if self._expected:
            return
        with anyio.move_on_after(LINGER_SECONDS):
            while (await self._receive()).get("more_body", False):
                pass

    def _check(self, size: int, limit: int) -> None:
        if size > limit:
            raise ServiceError("too_large", f"the body has {size} bytes or more; {limit} are allowed here")


def _limit(settings: Settings, scope: Scope) -> int:
    """Bytes that the body may have: by what the route takes, and by what the caller may send."""
    by_path = {"/v1/images": settings.max_image_bytes, "/v1/videos": settings.max_video_bytes}
    caller: Caller | None = scope["state"].get("caller")
    own = caller.limits.bytes if caller else None
    limit = by_path.get(scope["path"], OTHER_BYTES)
    return limit if own is None else min(limit, own)
