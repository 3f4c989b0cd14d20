"""Live relays: somebody names a source and a target; `server.relays` does the work in between."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from server.access import Caller
from server.api._dependencies import ServiceDependency, caller, model_of
from server.api._openapi import errors
from server.errors import ServiceError
from server.relay_store import Plan, RelayRecord
from server.relays import HOOKS
from server.streams.relay_protocol import RelayState

router = APIRouter(prefix="/v1/relays", tags=["relays"])

ENCODERS = ("auto", "libx264", "h264_nvenc")
"""Those that make H.264, which is what players of RTMP know."""

Permitted = Annotated[Caller, Depends(caller("relays"))]


class Wish(BaseModel):
    """The relay to start."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(description="URL of the stream to play, such as rtmp://127.0.0.1/live/cam1; rtmp: or rtmps:.")
    target: str = Field(description="URL to publish to, such as rtmp://127.0.0.1/upscaled/cam1; rtmp: or rtmps:.")
    model: str = Field("", description="A model's name, or auto; by default the service's own choice.", max_length=64)
    scale: Literal[2, 3, 4] = Field(4, description="Output pixels for one input pixel, each way.")
    encoder: str = Field("auto", description=f"{', '.join(ENCODERS)}.", max_length=64)
    bitrate: int | None = Field(
        None, ge=50_000, le=200_000_000, description="bit/s, constant; null: by the size and the rate of the pictures."
    )
    keyframe_seconds: float = Field(2.0, ge=0.1, le=20, description="Seconds from one keyframe to the next.")


class Failure(BaseModel):
    """Why a relay failed: a code of the list of errors, and a line for people."""

    code: str
    message: str


class Latency(BaseModel):
    """Milliseconds from bytes in to bytes out, of the latest 300 frames; null before the first."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Frames(BaseModel):
    """How many came, and what became of them."""

    taken: int = Field(0, alias="in", description="Frames that came.")
    delivered: int = 0
    dropped: int = Field(0, description="`drops` says why.")
    failed: int = Field(0, description="Frames that could not be upscaled.")
    held: int = Field(0, description="Times that the last frame was shown again, while there was no new one.")
    under_way: int = Field(0, description="Frames that are being worked on.")


class Input(BaseModel):
    """What comes."""

    width: int
    height: int
    fps: float | None
    codec: str | None
    audio: bool = Field(description="Sound comes with it.")
    deinterlaced: bool = Field(False, description="It is interlaced, and made progressive (bwdif).")


class Output(BaseModel):
    """What leaves."""

    width: int
    height: int


class Relay(BaseModel):
    """A relay."""

    id: str
    state: RelayState
    reason: str | None = Field(None, description="Why it ended.")
    error: Failure | None = None
    stream: str | None = Field(description="Name of the stream, if it was started by its publisher.")
    source: str = Field(description="Without stream key and password.")
    target: str = Field(description="Likewise; on other servers without the name of the stream, which may be its key.")
    model: str
    scale: int
    encoder: str
    bitrate: int | None
    keyframe_seconds: float
    engine: str | None = None
    precision: str | None = None
    input: Input | None = None
    output: Output | None = None
    fps_in: float = 0.0
    fps_out: float = 0.0
    latency_ms: Latency = Latency()
    drops: dict[str, int] = {}
    frames: Frames = Field(default_factory=lambda: Frames.model_validate({}))
    reconnects: int = Field(0, description="Times that source, target or the relay's process were started again.")
    created: datetime


class RelayList(BaseModel):
    """Some of the caller's relays, newest first."""

    relays: list[Relay]
    next: str | None = Field(description="Give it as `cursor` to get older ones; null: there are none.")


@router.post(
    "",
    status_code=201,
    response_model=Relay,
    summary="Start a relay",
    responses=errors(
        *("bad_request", "unauthorized", "forbidden", "unknown_model", "stream_busy", "invalid", "target_denied", "unresolved"),
        *("encoder", "quota", "busy", "restart", "storage"),
    ),
)
async def create(service: ServiceDependency, owner: Permitted, wish: Wish) -> JSONResponse:
    """Plays the source, upscales it, and publishes it to the target, until the source ends or the relay is removed.

    H.264 in and out; AAC or MP3 beside it is copied. When the source goes away, the last frame is shown for a while.
    """
    if wish.encoder not in ENCODERS:
        raise ServiceError("encoder", f"there is no encoder {wish.encoder!r} for relays; choose {', '.join(ENCODERS)}")
    most = service.settings.max_video_pixels
    plan = Plan(
        **wish.model_dump() | {"model": model_of(wish.model or service.settings.model, wish.scale).name},
        pixels=min(most, owner.limits.pixels or most),
        seconds=owner.limits.seconds,
    )
    record = await service.relays.add(owner, plan)
    relay = _described(*await service.relays.find(record.id, [owner.name]))
    return JSONResponse(relay.model_dump(mode="json", by_alias=True), 201, {"Location": f"{router.prefix}/{relay.id}"})


@router.get("", summary="List your relays", responses=errors("unauthorized", "forbidden", "invalid"))
async def listed(
    service: ServiceDependency,
    owner: Permitted,
    limit: Annotated[int, Query(ge=1, le=1000, description="Relays in one answer.")] = 100,
    cursor: Annotated[str | None, Query(description="`next` of the answer before.", max_length=64)] = None,
) -> RelayList:
    """Newest first. Who has the scope `admin` also sees those that publishers started."""
    found = await service.relays.listed(_owners(owner), limit + 1, cursor)
    relays = [_described(*relay) for relay in found[:limit]]
    return RelayList(relays=relays, next=relays[-1].id if len(found) > limit else None)


@router.get("/{id}", summary="How is a relay?", responses=errors("unauthorized", "forbidden", "not_found"))
async def show(service: ServiceDependency, owner: Permitted, id: str) -> Relay:  # noqa: A002
    """State and figures; one that ended is kept for a while."""
    return _described(*await service.relays.find(id, _owners(owner)))


@router.delete("/{id}", status_code=204, summary="End a relay", responses=errors("unauthorized", "forbidden", "not_found"))
async def remove(service: ServiceDependency, owner: Permitted, id: str) -> Response:  # noqa: A002
    """Sends what is under way, ends the relay and forgets it."""
    await service.relays.remove(id, _owners(owner))
    return Response(status_code=204)


def _owners(owner: Caller) -> list[str]:
    return [owner.name, HOOKS] if owner.may("admin") else [owner.name]


def _described(record: RelayRecord, figures: dict[str, Any]) -> Relay:
    plan = record.plan
    return Relay.model_validate(
        {
            "id": record.id,
            "stream": record.stream,
            "created": datetime.fromtimestamp(record.created, UTC),
            **{name: getattr(plan, name) for name in ("model", "scale", "encoder", "bitrate", "keyframe_seconds")},
            **figures,
        }
    )
