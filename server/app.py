"""The composition root: every part of the service is made, started and stopped here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio
from fastapi import FastAPI

from server.access import Keyring
from server.api import _errors, health
from server.api._access import Access
from server.api._limits import BodyLimits
from server.api._requests import Requests
from server.metrics import Metrics
from server.service import Service
from server.settings import Settings

ROUTERS = (health.router,)
"""In the order of the documentation."""


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application. Nothing runs before its lifespan is entered."""
    app = FastAPI(
        title="Fourfold",
        summary="Real-time video upscaling: low-resolution frames in, four times larger ones out.",
        version=version("fourfold"),
        lifespan=_lifespan,
        redoc_url=None,
    )
    app.state.service = _compose(settings)
    for router in ROUTERS:
        app.include_router(router)
    for middleware in (Access, Requests, BodyLimits):  # the last one is the outermost
        app.add_middleware(middleware)
    _errors.install(app)
    return app


def _compose(settings: Settings) -> Service:
    return Service(settings, Metrics(), Keyring(settings.api_keys_file))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.keyring.watch)
        yield
        tasks.cancel_scope.cancel()
