"""Turns errors into answers: one body form for all of them, over HTTP and over WebSocket."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.routing import compile_path
from starlette.websockets import WebSocket, WebSocketState

from engines.logs import redacted
from server.errors import ServiceError

MESSAGES = {
    404: ServiceError("not_found", "there is nothing at this address; /docs lists what there is"),
    405: ServiceError("method_not_allowed", "this address does not know this method; the header Allow lists those it knows"),
    416: ServiceError("range", "the Range lies outside of the content; the header Content-Range says how long it is"),
}


def install(app: FastAPI) -> None:
    """Has the framework let its own errors pass, so that all are answered in one place: `server.api._requests`."""
    for kind in (HTTPException, RequestValidationError, WebSocketRequestValidationError):
        app.add_exception_handler(kind, _pass)


def body_of(connection: HTTPConnection, error: ServiceError) -> dict[str, Any]:
    """What the caller reads. Counts the error too: every one that is answered passes here."""
    connection.app.state.service.metrics.rejected_total.labels(error.code).inc()
    request_id = connection.scope["state"]["request_id"]
    return {"error": {"code": error.code, "message": redacted(error.message), "request_id": request_id}}


def answer_of(
    connection: HTTPConnection, error: ServiceError, framework_headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The HTTP answer to an error."""
    headers = dict(framework_headers or {})
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED:  # the framework only names those of the first route with this path
        headers["Allow"] = ", ".join(_methods(connection))
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(connection, error), error.status, headers)


async def reject(websocket: WebSocket, error: ServiceError) -> None:
    """Ends a WebSocket with an error: as an HTTP answer before it was accepted, else as a message and a close code."""
    if websocket.application_state is WebSocketState.CONNECTING:
        await websocket.send_denial_response(answer_of(websocket, error))
        return
    detail = body_of(websocket, error)["error"]
    await websocket.send_json({"type": "error", "code": detail["code"], "message": detail["message"]})
    await websocket.close(error.close_code)


def service_error_of(error: Exception) -> ServiceError:
    """What the caller is told of an error, wherever it arose."""
    cause = error.__cause__ or error
    if isinstance(error, ServiceError):
        return error
    if isinstance(cause, ServiceError):  # raised while the framework read the body
        return cause
    if isinstance(error, RequestValidationError | WebSocketRequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return MESSAGES.get(error.status_code) or ServiceError("bad_request", str(error.detail))
    return ServiceError("internal", "the service failed here; tell its operator the request id")


def _methods(connection: HTTPConnection) -> list[str]:
    """Those that the path of a request knows."""
    found = set[str]()
    for route in iter_route_contexts(connection.app.routes):
        if route.path and compile_path(route.path)[0].match(connection.scope["path"]):
            found |= route.methods or set()
    return sorted(found)


async def _pass(_connection: object, error: Exception) -> NoReturn:
    raise error


def _invalid(error: RequestValidationError | WebSocketRequestValidationError) -> ServiceError:
    """Names the first parameter that is wrong, its value and what it may be."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ServiceError("bad_request", "the body is not JSON")
    place, *path = map(str, first["loc"])
    value = "" if first["type"] == "missing" else f" is {redacted(str(first.get('input')))[:80]!r}"
    return ServiceError("invalid", f"{'.'.join(path) or place}{value}: {first['msg']}")
