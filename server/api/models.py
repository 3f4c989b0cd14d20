"""What can be asked for: the models, and the engines that run them."""

from functools import cache
from typing import Any

from anyio import to_thread
from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api._dependencies import ServiceDependency
from server.api._openapi import errors
from server.listing import model_list

router = APIRouter(prefix="/v1", tags=["models"])


class ModelRow(BaseModel):
    """One model at one scale."""

    name: str = Field(examples=["xlsr"])
    scale: int = Field(description="Output pixels for one input pixel, in each direction.", examples=[4])
    parameters: int = Field(examples=[27920])
    psnr_y: dict[str, float] = Field(description="PSNR-Y in dB by test set.", examples=[{"set5": 31.01}])
    bytes: int = Field(description="Of its graph for video.", examples=[188000])


class ModelList(BaseModel):
    """All models, the best PSNR first at each scale."""

    models: list[ModelRow]


class EngineRow(BaseModel):
    """One backend."""

    engine: str = Field(examples=["openvino"])
    works: bool = Field(description="On this machine.")
    version: str | None
    precisions: dict[str, str] = Field(description="That work here, the fastest first, with the reason for its place.")
    reason: str | None = Field(description="Why it does not work.")


class Layout(BaseModel):
    """How an engine spreads its work."""

    lanes: int = Field(description="Batches at once.")
    threads: int = Field(description="CPU threads of one lane.")
    batch: int = Field(description="Frames of one batch, at most.")


class Trial(BaseModel):
    """What came of timing one engine."""

    backend: str
    precision: str
    layout: Layout
    refusal: str | None = Field(description="Why it may not serve, if it may not.")
    frame_ms: float | None = Field(description="Milliseconds of a 480x270 frame with all lanes busy.")


class EngineList(BaseModel):
    """All backends, and how fast they are."""

    engines: list[EngineRow]
    model: str = Field(description="That was timed.", examples=["xlsr-x4"])
    trials: list[Trial] = Field(description="The fastest first; empty before they were timed.")
    auto: str | None = Field(description="Which engine serves files when none is named, and why; null before it was timed.")


@router.get("/models", summary="The models", responses=errors("unauthorized"), response_model=ModelList)
async def models() -> dict[str, Any]:
    """The same as `fourfold models --json`."""
    return await to_thread.run_sync(_models)


@router.get("/engines", summary="The engines", responses=errors("unauthorized"), response_model=EngineList)
async def engines(service: ServiceDependency) -> dict[str, Any]:
    """The same as `fourfold engines --json`, but that nothing is timed for it: what is not known yet is left open."""
    return await service.engine_reports.latest()


@cache
def _models() -> dict[str, Any]:
    """Read from disk once: models come with the program."""
    return model_list()
