"""What the RTMP server asks (nginx-rtmp's callbacks): may this client publish, may it play? 2xx lets it, all else does not.

The callbacks show a secret of their own (`server.api._access`). Everything is checked before anything is started; what a
callback says is never trusted further than that somebody may be about to send.
"""

from dataclasses import dataclass
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.background import BackgroundTask
from starlette.responses import Response

from server.api._dependencies import ServiceDependency
from server.api._openapi import errors
from server.errors import ServiceError
from server.relays import LIVE, UPSCALED
from server.stream_keys import STREAM_NAME

router = APIRouter(prefix="/hooks/rtmp", tags=["hooks"])

FORM = "application/x-www-form-urlencoded"
FIELDS = 64
OWN_FIELDS = ("call", "app", "name", "addr", "clientid", "key", "token")

_BODY = {"required": True, "content": {FORM: {"schema": {"type": "object", "required": ["call", "app", "name"]}}}}
_REFUSALS = errors("unauthorized", "forbidden", "unsupported_type", "invalid", "rate", "restart")


@dataclass(frozen=True)
class Call:
    """A callback; its stream name was checked."""

    app: str
    name: str
    address: str  # of the client, as the RTMP server sees it
    client: str  # number of its connection there
    key: str
    token: str


@router.post(
    "/publish",
    status_code=204,
    summary="May a client publish?",
    openapi_extra={"requestBody": _BODY},
    responses={**_REFUSALS, **errors("stream_busy", "busy", "storage")},
)
async def publish(request: Request, service: ServiceDependency) -> Response:
    """Lets a client with a stream key publish to `live`, and starts the relay; to `upscaled`, only the service itself."""
    call = await _called(request, "publish")
    if call.app == UPSCALED and not service.relays.is_own(call.token):
        raise ServiceError("forbidden", f"only the service publishes to {UPSCALED}; publish to {LIVE}")
    if call.app == LIVE:
        service.stream_keys.check("publish", call.name, call.key, call.address)
        await service.relays.publish(call.name, call.client)
    return Response(status_code=204)


@router.post(
    "/publish_done",
    status_code=204,
    summary="A client stopped publishing",
    openapi_extra={"requestBody": _BODY},
    responses=_REFUSALS,
)
async def publish_done(request: Request, service: ServiceDependency) -> Response:
    """Only a notice: the relay sees for itself that its source is gone, and shows the last frame for a while."""
    call = await _called(request, "publish_done")
    if call.app == LIVE:
        service.relays.published(call.name, call.client)
    return Response(status_code=204)


@router.post("/play", status_code=204, summary="May a client play?", openapi_extra={"requestBody": _BODY}, responses=_REFUSALS)
async def play(request: Request, service: ServiceDependency) -> Response:
    """Lets everyone play, unless there is a key for playing this stream; and the service itself."""
    call = await _called(request, "play")
    if service.relays.is_own(call.token):
        return Response(status_code=204, background=BackgroundTask(service.relays.listens, call.name))
    service.stream_keys.check("play", call.name, call.key, call.address)
    return Response(status_code=204)


async def _called(request: Request, kind: str) -> Call:
    """The callback in a request's body.

    Raises:
        ServiceError: unsupported_type, or invalid: it is no such callback, or one that nobody should heed.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise ServiceError("unsupported_type", f"a callback is sent as {FORM} (notify_method post)")
    fields = _parsed(await request.body())
    given = {name: fields.get(name, "") for name in OWN_FIELDS}
    if given["call"] != kind:
        raise ServiceError("invalid", f"call is {given['call'][:40]!r}; {kind} is expected here")
    if given["app"] not in (LIVE, UPSCALED):
        raise ServiceError("invalid", f"app is {given['app'][:40]!r}; {LIVE} and {UPSCALED} are known here")
    if not STREAM_NAME.fullmatch(given["name"]):
        raise ServiceError("invalid", f"name is {given['name'][:80]!r}; take up to 64 letters, digits, dashes and underscores")
    return Call(given["app"], given["name"], given["addr"], given["clientid"], given["key"], given["token"])


def _parsed(body: bytes) -> dict[str, str]:
    """The fields of a form. What a client wrote behind the stream's name is appended to it: it must not say anything twice.

    Raises:
        ServiceError: invalid.
    """
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS)
    except ValueError:
        raise ServiceError("invalid", f"the body is no form of at most {FIELDS} fields in UTF-8") from None
    names = [name for name, _ in pairs]
    for name in OWN_FIELDS:
        if names.count(name) > 1:
            raise ServiceError("invalid", f"{name} is given {names.count(name)} times; give it once")
    return dict(pairs)
