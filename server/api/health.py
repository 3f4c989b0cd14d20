"""Whether the service lives, whether it is ready for work, and its metrics."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import Response

from server.access import Caller
from server.api._dependencies import ServiceDependency, caller
from server.api._openapi import errors

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """What a probe reads."""

    status: Literal["ok"] = "ok"


@router.get("/health/live", summary="Does the process answer?")
async def live() -> Health:
    """Always 200; needs no key."""
    return Health()


@router.get("/health/ready", summary="Can it work?", responses=errors("unauthorized", "engine_unavailable", "restart"))
async def ready(service: ServiceDependency) -> Health:
    """200 if the engine answered a real frame lately; 503 while it starts, while it is down, and after SIGTERM."""
    service.check_ready()
    return Health()


@router.get("/metrics", summary="Prometheus metrics", responses=errors("unauthorized", "forbidden"), response_class=Response)
async def metrics(service: ServiceDependency, _caller: Annotated[Caller, Depends(caller("metrics"))]) -> Response:
    """The text format of Prometheus. Needs the scope `metrics`."""
    await service.vitals.look()
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
