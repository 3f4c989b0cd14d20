"""One WebSocket connection to the service, and what its end means. The one place that knows websockets."""

import asyncio
import json
import ssl
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from fourfold_client._access import Access
from fourfold_client.errors import CODE_OF_CLOSE, ConnectionLostError, FourfoldError, error_of, error_of_answer

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
"""After which a connection counts as lost: the service speaks at least once a second."""
READY_SECONDS = 120.0
"""That the service may take for its first word: it may have to compile an engine."""
CLOSE_SECONDS = 2.0


class Socket:
    """An open connection."""

    def __init__(self, connection: ClientConnection, url: str) -> None:
        self._connection, self._url = connection, url
        self._patience_seconds = READY_SECONDS
        answer = connection.response
        self._request_id = answer.headers.get("x-request-id") if answer else None

    async def send(self, message: bytes | str) -> bool:
        """Sends; waits while the service does not take it. False: the connection has ended, and `receive` knows why."""
        try:
            await self._connection.send(message)
        except ConnectionClosed:
            return False
        return True

    async def receive(self) -> bytes | dict[str, Any]:
        """The next message: a frame, or words.

        Raises:
            FourfoldError: the service ended the session, and why; or the connection was lost.
        """
        try:
            async with asyncio.timeout(self._patience_seconds):
                message = await self._connection.recv()
        except TimeoutError:
            text = f"nothing came from {self._url} for {self._patience_seconds:g} s"
            raise ConnectionLostError(text, code="timeout", request_id=self._request_id) from None
        except ConnectionClosed as closed:
            raise self._reason(closed) from None
        self._patience_seconds = SILENCE_SECONDS
        if isinstance(message, bytes):
            return message
        words: dict[str, Any] = json.loads(message)
        if words["type"] == "error" and "sequence" not in words:
            raise error_of(words["code"], words["message"], request_id=self._request_id)
        return words

    async def aclose(self) -> None:
        """Ends the connection."""
        await self._connection.close()

    def _reason(self, closed: ConnectionClosed) -> FourfoldError:
        """What a connection that ended without a word says by its close code."""
        code = CODE_OF_CLOSE.get(closed.rcvd.code) if closed.rcvd else None
        if closed.rcvd and code:
            return error_of(code, closed.rcvd.reason or "the service ended the session", request_id=self._request_id)
        return ConnectionLostError(f"the connection to {self._url} was lost", code="lost", request_id=self._request_id)


class Connector:
    """Makes connections."""

    def __init__(self, access: Access, tls: ssl.SSLContext | None) -> None:
        self._access = access
        self._tls = (tls or ssl.create_default_context()) if access.url.startswith("https") else None

    async def connect(self, start: dict[str, Any]) -> Socket:
        """A connection on which the session was started.

        Raises:
            FourfoldError: the service says no, or nobody answers.
        """
        url = self._access.url
        try:
            connection = await _Connect(
                f"{self._access.websocket_url}/v1/stream",
                additional_headers=self._access.headers,
                ssl=self._tls,
                compression=None,  # pictures are compressed already
                max_size=None,
                open_timeout=CONNECT_SECONDS,
                close_timeout=CLOSE_SECONDS,
                ping_interval=None,  # silence says it: pings would wait behind frames that the service does not read yet
            )
        except InvalidStatus as refused:
            answer = refused.response
            raise error_of_answer(answer.status_code, answer.headers, bytes(answer.body or b"")) from None
        except (OSError, WebSocketException, TimeoutError) as error:
            text = f"no Fourfold service answers at {url}: {error or 'no connection in time'}; is it running?"
            raise ConnectionLostError(text, code="unreachable") from None
        socket = Socket(connection, url)
        await socket.send(json.dumps(start))
        return socket


class _Connect(connect):
    """Follows no redirects: the service sends none, and the key is for it alone."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc
