"""Takes the key from a request and lets in who has a good one, before anything else of the request is looked at."""

import re

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from server.api import web
from server.api._dependencies import SUBPROTOCOL, service_of, subprotocol_of
from server.errors import ServiceError
from server.service import Service
from server.settings import is_loopback

PORT = re.compile(r":\d*$")

PUBLIC = ("/health/live", *web.PATHS)
"""Paths that need no key."""

HOOKS = "/hooks/"
"""Paths below it need the secret of the hooks, not a key."""


class Access:
    """ASGI middleware: puts the caller into the request's state, or refuses it before a body is read.

    While the service is draining, whatever would start new work is refused too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await _admit(HTTPConnection(scope), WebSocket(scope, receive, send) if scope["type"] == "websocket" else None)
        await self._app(scope, receive, send)


async def _admit(connection: HTTPConnection, websocket: WebSocket | None) -> None:
    """Raises: ServiceError: unauthorized, rate, forbidden, busy or restart."""
    service, scope = service_of(connection), connection.scope
    address = connection.client.host if connection.client else ""
    if scope["path"].startswith(HOOKS):
        service.hook_secret.check(connection.query_params.get("secret", ""), address)
    elif scope["path"] not in PUBLIC:
        scope["state"]["caller"] = service.keyring.caller(_key_of(connection), address)
    _check_page(connection, service)
    if refusal := scope["state"].get("refusal"):  # of the connection, see `server.connection`
        raise refusal
    if service.draining.is_set() and scope.get("method", "POST") == "POST":
        if websocket:  # its client is to see the close code that sessions end with now
            await websocket.accept(subprotocol_of(websocket))
        raise ServiceError("restart", "the service is shutting down; try again", retry_after=5)


def _check_page(connection: HTTPConnection, service: Service) -> None:
    """Keeps out web pages of strangers, which a browser on this machine or with access to it could be made to open.

    Raises:
        ServiceError: forbidden.
    """
    settings, host = service.settings, connection.headers.get("host", "")
    name = PORT.sub("", host).strip("[]").lower()
    private = is_loopback(settings.host) and not service.keyring.required and not settings.trusted_proxies
    if private and "." in name and not is_loopback(name):  # a name of the Internet that was made to point here
        raise ServiceError("forbidden", "without API keys, only localhost and 127.0.0.1 are names of this service")
    origin, reads = connection.headers.get("origin"), connection.scope.get("method") in ("GET", "HEAD")
    if origin and not reads and origin not in (f"http://{host}", f"https://{host}", *settings.allowed_origins):
        raise ServiceError("forbidden", f"pages of {origin[:80]} may not do this; FOURFOLD_ALLOWED_ORIGINS lists who may")


def _key_of(connection: HTTPConnection) -> str | None:
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    offered: list[str] = connection.scope.get("subprotocols", [])
    return next((name.removeprefix(SUBPROTOCOL) for name in offered if name.startswith(SUBPROTOCOL)), None)
