"""Pictures: one comes in, the upscaled one goes out. The api process passes their bytes on and never looks into them."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from models.registry import Model
from server.access import Caller
from server.api._accept import best_type
from server.api._dependencies import ServiceDependency, caller, model_of
from server.api._multipart import file_pieces
from server.api._openapi import errors
from server.errors import ServiceError
from server.memory import Take
from server.pictures import QUALITY, PictureFormat
from server.service import Service
from server.streams.picture_pool import UpscaledPicture
from server.streams.pictures import PictureTask

router = APIRouter(prefix="/v1/images", tags=["images"])

TYPES: dict[str, PictureFormat] = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
"""What is read and written, the default first."""


async def _memory(service: ServiceDependency) -> AsyncIterator[Take]:
    """A share of the memory for pictures, held until the answer was sent."""
    with service.workers.pictures.memory.hold() as take:
        yield take


_FILE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "required": ["image"], "properties": {"image": _FILE["schema"]}}}
_BODY = {
    "required": True,
    "content": {**dict.fromkeys((*TYPES, "application/octet-stream"), _FILE), "multipart/form-data": _FORM},
}


def _header(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


_ANSWER = {
    "description": "The upscaled picture, in the type that Accept likes best; PNG if it does not say.",
    "content": dict.fromkeys(TYPES, _FILE),
    "headers": {
        "X-Fourfold-Model": _header("The model that was used.", "xlsr"),
        "X-Fourfold-Engine": _header("The backend that ran it.", "openvino"),
        "X-Fourfold-Precision": _header("Its precision.", "bf16"),
        "X-Fourfold-Server-Ms": _header("Milliseconds from the last byte of the request to the first of the answer.", "84.2"),
        "X-Fourfold-Alpha": _header("`dropped` if the picture had alpha and the answer is JPEG, which has none.", "dropped"),
    },
}


@router.post(
    "",
    summary="Upscale a picture",
    response_class=Response,
    openapi_extra={"requestBody": _BODY},
    responses={
        200: _ANSWER,
        **errors(
            *("bad_multipart", "unauthorized", "forbidden", "unknown_model", "not_acceptable", "slow_body", "too_large"),
            *("unsupported_type", "invalid", "dimensions", "unreadable", "unsupported", "bad_output", "crashed"),
            *("engine_unavailable", "busy", "restart", "decode_timeout", "engine_timeout"),
        ),
    },
)
async def upscale(
    request: Request,
    service: ServiceDependency,
    owner: Annotated[Caller, Depends(caller("images"))],
    take: Annotated[Take, Depends(_memory)],
    model: Annotated[str, Query(description="A model's name, or auto.", max_length=64)] = "",
    scale: Annotated[int, Query(ge=2, le=4, description="Output pixels for one input pixel, each way.")] = 4,
    quality: Annotated[int, Query(ge=1, le=100, description="Of JPEG and WebP; higher is better and larger.")] = QUALITY,
) -> Response:
    """Takes a PNG, JPEG or WebP picture as the body, or as the field `image` of a multipart body.

        curl --data-binary @small.png -H 'Content-Type: image/png' 'http://127.0.0.1:8000/v1/images?scale=4' -o large.png
        curl -F image=@small.jpg -H 'Accept: image/webp' http://127.0.0.1:8000/v1/images -o large.webp

    What the picture is tells its content, not its Content-Type. EXIF rotation is applied; 16 bits a channel become 8; palette,
    grey and CMYK pictures become RGB; alpha is kept where the answer's type has it; an RGB colour profile goes over into the
    answer. Of an animation the first picture is upscaled.
    """
    network = model_of(model or service.settings.model, scale)
    kind = _wanted_type(request)
    task = _task(service, owner, network, TYPES[kind], quality)
    picture = bytearray()
    async for piece in file_pieces(request, "image"):
        take(len(piece))
        picture += piece
    received = time.monotonic()
    try:
        result = await service.workers.pictures.upscale(task, picture, take)
    except BaseException:
        service.metrics.frames_total.labels("image", "failed").inc()
        raise
    return _Answer(service, result, network, kind, time.monotonic() - received)


class _Answer(Response):
    """A picture on its way out, piece by piece, as fast as the client takes it."""

    def __init__(self, service: Service, picture: UpscaledPicture, network: Model, kind: str, seconds: float) -> None:
        about = picture.about
        headers = {
            "Content-Length": str(about.bytes),
            "Vary": "Accept",
            "X-Fourfold-Model": network.name,
            "X-Fourfold-Engine": about.backend,
            "X-Fourfold-Precision": about.precision,
            "X-Fourfold-Server-Ms": f"{seconds * 1000:.1f}",
        }
        if about.alpha_dropped:
            headers["X-Fourfold-Alpha"] = "dropped"
        super().__init__(headers=headers, media_type=kind)
        self._pieces, self._metrics = picture.pieces, service.metrics
        self._patience_seconds = service.settings.slow_consumer_seconds
        self._metrics.frame_latency_seconds.labels("image").observe(seconds)
        for stage, spent in about.seconds.items():
            self._metrics.stage_seconds.labels(stage).observe(spent)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: ClientDisconnect: the client is gone, or takes no piece for too long."""
        outcome, started = "failed", time.monotonic()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for piece in self._pieces:
                async with asyncio.timeout(self._patience_seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            if await Request(scope, receive).is_disconnected():
                raise ClientDisconnect
            await send({"type": "http.response.body"})
            outcome = "delivered"
        except TimeoutError as error:
            raise ClientDisconnect from error
        finally:
            self._metrics.frames_total.labels("image", outcome).inc()
            self._metrics.stage_seconds.labels("send").observe(time.monotonic() - started)


def _wanted_type(request: Request) -> str:
    wanted = ", ".join(request.headers.getlist("accept"))
    kind = best_type(wanted, list(TYPES))
    if kind is None:
        raise ServiceError("not_acceptable", f"Accept is {wanted[:80]!r}; answers are {', '.join(TYPES)}")
    return kind


def _task(service: Service, owner: Caller, network: Model, to: PictureFormat, quality: int) -> PictureTask:
    settings = service.settings
    pixels = min(settings.max_image_pixels, owner.limits.pixels or settings.max_image_pixels)
    return PictureTask(f"{network.title}-rgb", network.scale, to, quality, pixels, settings.max_output_pixels)
