"""What handlers ask for: the service, and who is calling."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from models.registry import Model, UnknownModelError, find_model
from server.access import Caller
from server.errors import ServiceError
from server.keyfile import Scope
from server.service import Service

SUBPROTOCOL = "fourfold.bearer."
"""What a browser's WebSocket, which cannot send headers, offers its key with."""

_bearer = HTTPBearer(auto_error=False, description="An API key, as `fourfold keys add` printed it.")


def service_of(connection: HTTPConnection) -> Service:
    """The running service."""
    service: Service = connection.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(service_of)]


def caller(scope: Scope) -> Callable[[Request], Caller]:
    """A dependency that gives the caller, if its key has `scope`.

    The key itself was checked before (`server.api._access`), so a request without one does not come this far.
    """

    def dependency(request: Request, _key: Annotated[object, Security(_bearer)] = None) -> Caller:
        return _permitted(request, scope)

    return dependency


async def caller_of_websocket(websocket: WebSocket, scope: Scope) -> Caller:
    """Who opens a WebSocket; to be called before it is accepted (with `subprotocol_of`).

    Raises:
        ServiceError: forbidden: the key lacks `scope`.
    """
    return _permitted(websocket, scope)


def subprotocol_of(websocket: WebSocket) -> str | None:
    """What to accept a WebSocket with: a browser that offers its key as a subprotocol needs that one back."""
    offered: list[str] = websocket.scope["subprotocols"]
    return next((name for name in offered if name.startswith(SUBPROTOCOL)), None)


def model_of(name: str, scale: int) -> Model:
    """The model that a request names.

    Raises:
        ServiceError: unknown_model: there is none; the message lists what there is.
    """
    try:
        return find_model(name, scale)
    except UnknownModelError as error:
        raise ServiceError("unknown_model", str(error)) from error


def _permitted(connection: HTTPConnection, scope: Scope) -> Caller:
    found: Caller = connection.scope["state"]["caller"]
    if not found.may(scope):
        raise ServiceError(
            "forbidden", f"the key {found.name} lacks the scope {scope}; it has {', '.join(sorted(found.scopes))}"
        )
    return found
