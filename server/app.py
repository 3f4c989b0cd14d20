"""The composition root: every part of the service is made, started and stopped here."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import anyio
from fastapi import FastAPI

from server.access import HookSecret, Keyring
from server.api import _errors, health, hooks, images, models, relays, stream, videos, web
from server.api._access import Access
from server.api._limits import BodyLimits
from server.api._openapi import ANY_ERROR
from server.api._requests import Requests
from server.engine_process import EngineStats, EngineSupervisor
from server.jobs import Jobs
from server.listing import EngineReports
from server.metrics import Metrics
from server.relays import Relays
from server.service import Service
from server.settings import Settings, is_loopback
from server.stream_keys import StreamKeyring
from server.streams.pool import Workers

ROUTERS = (
    *(images.router, videos.router, relays.router, stream.router, models.router),
    *(hooks.router, health.router, web.router),
)
"""In the order of the documentation."""


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application. Nothing runs before its lifespan is entered."""
    app = FastAPI(
        title="Fourfold",
        summary="Real-time video upscaling: low-resolution frames in, four times larger ones out.",
        version=version("fourfold"),
        lifespan=_lifespan,
        docs_url=None,  # see server.api.web
        redoc_url=None,
        responses=ANY_ERROR,
    )
    app.state.service = _compose(settings)
    for router in ROUTERS:
        app.include_router(router)
    for middleware in (Access, Requests, BodyLimits):  # the last one is the outermost
        app.add_middleware(middleware)
    _errors.install(app)
    return app


def _compose(settings: Settings) -> Service:
    metrics = Metrics()

    def note(stats: EngineStats) -> None:
        metrics.note_engine(engine.info, stats.queue_frames, stats.batches)

    engine = EngineSupervisor(settings, metrics.engine_restarts_total.inc, note)
    workers = Workers(settings, engine.address)
    metrics.queue_frames.labels("pictures").set_function(lambda: workers.pictures.waiting)
    jobs = Jobs(settings, workers, metrics)
    keyring, reports = Keyring(settings.api_keys_file), EngineReports(settings.model)
    relays = Relays(settings, workers.spawn, metrics, keyring.required)
    alone = is_loopback(settings.host) and not settings.trusted_proxies
    access = StreamKeyring(settings.stream_keys_file), HookSecret(settings.hook_secret_file, alone)
    return Service(settings, metrics, keyring, engine, reports, workers, jobs, relays, *access)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Starts the parts, each after those that it rests on, and stops them the other way round."""
    service: Service = app.state.service
    async with AsyncExitStack() as stack:
        await service.engine.start()
        stack.push_async_callback(service.engine.stop)
        await service.workers.start()
        stack.push_async_callback(lambda: service.workers.stop(service.draining.seconds_left()))
        await service.jobs.start()
        stack.push_async_callback(lambda: service.jobs.stop(service.draining.seconds_left()))
        await service.relays.start()
        stack.push_async_callback(lambda: service.relays.stop(service.draining.seconds_left()))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(service.keyring.watch)
        tasks.start_soon(service.stream_keys.watch)
        yield
        tasks.cancel_scope.cancel()
