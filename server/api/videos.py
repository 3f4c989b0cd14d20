"""Video jobs: uploads come in, results go out; `server.jobs` does the work in between."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response

from server.access import Caller
from server.api._dependencies import ServiceDependency, caller, model_of
from server.api._openapi import errors
from server.api._uploads import receive
from server.errors import ServiceError
from server.job_store import Job
from server.jobs import SOURCE
from server.keyfile import Limits
from server.media.encoders import ENCODERS
from server.settings import Settings
from server.storage import finished

router = APIRouter(prefix="/v1/videos", tags=["videos"])

MIN_SIDE = 16
"""Input pixels each way: encoders and networks do little good below."""

MAX_SECONDS = 86400
"""That a video may play, where the key has no limit."""

Permitted = Annotated[Caller, Depends(caller("videos"))]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "required": ["video"], "properties": {"video": {"type": "string", "format": "binary"}}}}
_BODY = {"required": True, "content": {"video/*": _BINARY, "application/octet-stream": _BINARY, "multipart/form-data": _FORM}}


class Links(BaseModel):
    """Where to go from here."""

    self: str
    content: str = Field(description="The result, once the state is `done`.")


class Failure(BaseModel):
    """Why a job failed: a code of the list of errors, and a line for people."""

    code: str
    message: str


class Video(BaseModel):
    """A video job."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float = Field(ge=0, le=1, description="0 as long as the container does not say how many frames there are.")
    frames: int = Field(description="Frames that are done.")
    fps: float = Field(description="Frames per second, over the whole job.")
    error: Failure | None
    model: str
    scale: int
    created: datetime
    result: dict[str, Any] | None = Field(description="What `fourfold video --json` prints, once the job is done.")
    notes: list[str] = Field(description="What was converted, left out or chosen.")
    links: Links


class Videos(BaseModel):
    """Some of the caller's jobs, newest first."""

    videos: list[Video]
    next: str | None = Field(description="Give it as `cursor` to get older ones; null: there are none.")


@router.post(
    "",
    status_code=202,
    response_model=Video,
    summary="Upscale a video",
    openapi_extra={"requestBody": _BODY},
    responses=errors(
        *("bad_multipart", "unauthorized", "forbidden", "unknown_model", "slow_body", "too_large", "invalid", "dimensions"),
        *("container", "unreadable", "unsupported", "hdr", "encoder", "busy", "restart", "decode_timeout", "storage"),
    ),
)
async def create(
    request: Request,
    service: ServiceDependency,
    owner: Permitted,
    model: Annotated[str, Query(description="A model's name, or auto.", max_length=64)] = "",
    scale: Annotated[int, Query(ge=2, le=4, description="Output pixels for one input pixel, each way.")] = 4,
    encoder: Annotated[str, Query(description=f"auto, {', '.join(ENCODERS)}.", max_length=64)] = "auto",
    crf: Annotated[int | None, Query(ge=0, le=63, description="Quality; lower is better and larger.")] = None,
    height: Annotated[
        int | None, Query(ge=2, le=16384, description="Lines of the result; scaled down after the network.")
    ] = None,
) -> JSONResponse:
    """Takes a video file as the body, or as the field `video` of a multipart body, looks at it, and queues it.

    The answer comes when the upload is complete and its start could be read. The result is an MP4 file, kept for a day.
    """
    if service.draining.is_set():  # an engine that is being started again is no reason to refuse: jobs wait for it
        raise ServiceError("restart", "the service is shutting down; try again", retry_after=5)
    options = {
        "model": model_of(model or service.settings.model, scale).name,
        "scale": scale,
        "encoder": _encoder(encoder),
        "crf": crf,
        "height": height,
        "limits": _limits(service.settings, owner.limits),
    }
    jobs = service.jobs
    async with jobs.upload() as folder:
        target = jobs.storage.path(folder) / SOURCE
        await receive(request, target, "video", lambda size: jobs.storage.charge(folder, size))
        await jobs.check(folder, options)
        job = await jobs.add(owner.name, folder, options)
    video = _described(job)
    return JSONResponse(video.model_dump(mode="json"), 202, {"Location": video.links.self})


@router.get("", summary="List your videos", responses=errors("unauthorized", "forbidden", "invalid"))
async def listed(
    service: ServiceDependency,
    owner: Permitted,
    limit: Annotated[int, Query(ge=1, le=1000, description="Videos in one answer.")] = 100,
    cursor: Annotated[str | None, Query(description="`next` of the answer before.", max_length=64)] = None,
) -> Videos:
    """Newest first."""
    found = await service.jobs.listed(owner.name, limit + 1, cursor)
    shown = found[:limit]
    return Videos(videos=list(map(_described, shown)), next=shown[-1].id if len(found) > limit else None)


@router.get("/{id}", summary="How far is a video?", responses=errors("unauthorized", "forbidden", "not_found"))
async def show(service: ServiceDependency, owner: Permitted, id: str) -> Video:  # noqa: A002
    """State and progress; the error if it failed."""
    return _described(await service.jobs.find(id, owner.name))


@router.api_route(
    "/{id}/content",
    methods=["GET"],
    response_class=FileResponse,
    summary="Download a result",
    responses={
        200: {"content": {"video/mp4": _BINARY}},
        206: {"description": "The part that the header Range asked for.", "content": {"video/mp4": _BINARY}},
        **errors("unauthorized", "forbidden", "not_found", "conflict", "range"),
    },
)
@router.api_route("/{id}/content", methods=["HEAD"], include_in_schema=False)
async def content(request: Request, service: ServiceDependency, owner: Permitted, id: str) -> FileResponse:  # noqa: A002
    """The MP4 file. Understands Range and If-Range."""
    job = await service.jobs.find(id, owner.name)
    if job.state != "done":
        raise ServiceError("conflict", f"this video is {job.state}; its content is there once it is done")
    path = service.jobs.path(job)
    try:
        status = await finished(path.stat)
    except FileNotFoundError:
        raise ServiceError("not_found", "the result of this video is gone") from None
    _check_range(request.headers.get("range", ""), status.st_size)
    return FileResponse(path, media_type="video/mp4", filename="upscaled.mp4", stat_result=status)


@router.delete("/{id}", status_code=204, summary="Remove a video", responses=errors("unauthorized", "forbidden", "not_found"))
async def remove(service: ServiceDependency, owner: Permitted, id: str) -> Response:  # noqa: A002
    """Ends the job, whatever it is doing, and removes upload and result."""
    await service.jobs.remove(id, owner.name)
    return Response(status_code=204)


def _encoder(name: str) -> str:
    if name not in ("auto", *ENCODERS):
        raise ServiceError("encoder", f"there is no encoder {name!r}; choose auto, {', '.join(ENCODERS)}")
    return name


def _limits(settings: Settings, own: Limits) -> dict[str, Any]:
    """The arguments of `server.videos.VideoLimits`."""
    return {
        "pixels": min(settings.max_video_pixels, own.pixels or settings.max_video_pixels),
        "output_pixels": settings.max_output_pixels,
        "seconds": own.seconds or MAX_SECONDS,
        "side": MIN_SIDE,
    }


def _described(job: Job) -> Video:
    outcome, address = job.outcome, f"{router.prefix}/{job.id}"
    done = 1.0 if job.state == "done" else outcome.frames / max(outcome.frames_in_all or 0, outcome.frames, 1)
    return Video(
        id=job.id,
        state=job.state,
        progress=round(done if outcome.frames_in_all else 0.0, 4),
        frames=outcome.frames,
        fps=outcome.fps,
        error=Failure(**outcome.error) if outcome.error else None,
        model=job.options["model"],
        scale=job.options["scale"],
        created=datetime.fromtimestamp(job.created, UTC),
        result=outcome.result,
        notes=list(outcome.notes),
        links=Links(self=address, content=f"{address}/content"),
    )


def _check_range(header: str, size: int) -> None:
    """Refuses what begins behind the end, in our form of an error; all else is FileResponse's."""
    found = re.fullmatch(r"bytes=(\d{1,18})-\d*", header.strip())
    if found and int(found[1]) >= size:
        raise HTTPException(416, headers={"Content-Range": f"bytes */{size}"})
