"""The outermost layer of a request: its id, its line in the log, and an answer even where a handler failed."""

import logging
import time
from secrets import token_hex

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from engines.logs import belonging
from server.api._errors import answer_of, reject, service_error_of
from server.errors import ServiceError
from server.metrics import Metrics
from server.service import Service

log = logging.getLogger(__name__)

SWITCHED, CLIENT_LEFT = 101, 499
"""As what a WebSocket is counted that was let in, and a request whose client did not wait for the answer."""


class Requests:
    """ASGI middleware: everything inside may raise; nothing leaves here but answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope.setdefault("state", {})["request_id"] = token_hex(8)
        with belonging(request=request_id):
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        if scope["type"] == "http":
            outcome = await _Exchange(scope, receive, send).run(self._app)
        elif scope["type"] == "websocket":
            outcome = await _Conversation(WebSocket(scope, receive, send)).run(self._app)
        else:
            await self._app(scope, receive, send)
            return
        log.info("%s %s in %.0f ms", _described(scope), outcome, (time.monotonic() - started) * 1000)


class _Exchange:
    """One HTTP request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._status, self._started = 0, time.monotonic()

    async def run(self, app: ASGIApp) -> str:
        """Gives what became of the request, for the log."""
        try:
            await app(self._scope, self._receive, self._forward)
        except ClientDisconnect:
            self._count(CLIENT_LEFT)
            return "left by its client"
        except Exception as error:
            told = _told(self._scope, error)
            if not self._status:  # else the server cuts the connection, so that half an answer does not look whole
                answer = answer_of(Request(self._scope), told, getattr(error, "headers", None))
                await answer(self._scope, self._receive, self._forward)
        self._count(self._status)
        return str(self._status)

    def _count(self, status: int) -> None:
        _metrics_of(self._scope).note_request(
            self._scope["method"], _route_of(self._scope), status, time.monotonic() - self._started
        )

    async def _forward(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = _with_id(message, self._scope)
        await self._send(message)


class _Conversation:
    """One WebSocket, from its handshake to its end."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def run(self, app: ASGIApp) -> str:
        """Gives what became of it, for the log."""
        websocket = self._websocket
        try:
            await app(websocket.scope, websocket.receive, self._forward)
        except WebSocketDisconnect:
            return "left by its client"
        except Exception as error:
            told = _told(websocket.scope, error)
            if websocket.application_state is not WebSocketState.DISCONNECTED:
                await reject(websocket, told)
        return "ended"

    async def _forward(self, message: Message) -> None:
        opening = self._websocket.application_state is WebSocketState.CONNECTING
        if opening and message["type"] == "websocket.close":  # the framework found no route
            await reject(self._websocket, ServiceError("not_found", "there is no WebSocket at this address"))
            return
        if message["type"] in ("websocket.accept", "websocket.http.response.start"):
            scope = self._websocket.scope
            _metrics_of(scope).note_request("GET", _route_of(scope), message.get("status", SWITCHED), None)
            message = _with_id(message, scope)
        await self._websocket.send(message)


def _told(scope: Scope, error: Exception) -> ServiceError:
    told = service_error_of(error)
    if told.code == "internal":
        log.error("%s failed", _described(scope), exc_info=error)
    return told


def _with_id(message: Message, scope: Scope) -> Message:
    header = (b"x-request-id", scope["state"]["request_id"].encode())
    return {**message, "headers": [*message.get("headers", []), header]}


def _route_of(scope: Scope) -> str:
    """The template of the path; empty before a route was found, or without one."""
    return getattr(scope.get("route"), "path", "")


def _metrics_of(scope: Scope) -> Metrics:
    service: Service = scope["app"].state.service
    return service.metrics


def _described(scope: Scope) -> str:
    """Method, route and caller: not the path or the query, which are the client's words."""
    caller, name = scope["state"].get("caller"), _route_of(scope) or "(no route)"
    return f"{scope.get('method', 'WebSocket')} {name} by {caller.name if caller else 'nobody'}:"
