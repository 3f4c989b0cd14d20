"""Runs the service on uvicorn: takes the address, says where it is, and drains on SIGTERM.

How single connections are treated is in `server.connection` and `server.websocket`.
"""

import asyncio
import logging
import resource
import signal
import socket
import ssl
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from engines import logs
from server import connection, websocket
from server.app import create_app
from server.errors import SettingsError
from server.service import Service
from server.settings import Settings, is_loopback

log = logging.getLogger(__name__)

CONNECTIONS = 4096  # at once, where there are descriptors for them
DESCRIPTORS = 4  # of one connection: its own, its worker's, a file, and one for another connection that is refused
RESERVED_DESCRIPTORS = 40  # for what is no connection: engine, forkserver, files, libraries
CANCEL_SECONDS = 2  # for requests that outlived the grace, to end after they were cancelled


class Server(uvicorn.Server):
    """Stops in two steps: first it refuses new work and lets the rest end, then it closes."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.stopped_by: int | None = None  # the signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self.stopped_by = sig
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where the service is to be found, once it is."""
        await super().startup(sockets)
        settings = self._service.settings
        port = self.servers[0].sockets[0].getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{'https' if settings.tls_cert else 'http'}://{host}:{port}"
        log.info("Fourfold serves %s %s", address, _with_what(self._service.engine.info))
        if not self._service.keyring.required:
            who = "only this machine reaches it" if is_loopback(settings.host) else "ANYONE WHO REACHES IT MAY USE IT"
            log.warning("no API keys are configured: %s (FOURFOLD_API_KEYS_FILE)", who)

    async def on_tick(self, counter: int) -> bool:
        """Whether to close; asked ten times a second."""
        if not await super().on_tick(counter):
            return False
        draining, grace = self._service.draining, self._service.settings.shutdown_grace_seconds
        if not draining.is_set():
            draining.begin(grace)
            log.info("stopping; what runs has %g s to end", grace)
        return self.force_exit or not self.server_state.tasks or not draining.seconds_left()


def _with_what(engine: dict[str, Any]) -> str:
    """What serves, in words; the engine may have crashed at its start, and is tried again then."""
    return f"with {engine['title']} on {engine['backend']} {engine['precision']}" if engine else "without an engine so far"


def serve(settings: Settings) -> int:
    """Runs the service until a signal stops it, and gives the signal's number.

    Raises:
        FourfoldError: it cannot start; the message says why.
    """
    logs.configure(settings.log_format)
    connections = _connections()
    with _bound(settings) as listener:
        return asyncio.run(_serve(settings, listener, connections))


async def _serve(settings: Settings, listener: socket.socket, connections: int) -> int:
    app = create_app(settings)
    service: Service = app.state.service
    server = Server(_config(settings, app, service, connections), service)
    async with app.router.lifespan_context(app):
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises it again when it is done: to no effect
            signal.signal(number, lambda *_: None)
        await server.serve([listener])
    assert server.stopped_by is not None
    return server.stopped_by


def _config(settings: Settings, app: Any, service: Service, connections: int) -> uvicorn.Config:
    protocol = partial(connection.Protocol, service=service, connections=connections)
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", protocol),
        ws=websocket.Protocol,
        ws_max_size=settings.max_frame_bytes,
        ws_ping_interval=settings.ping_seconds,
        ws_ping_timeout=settings.ping_seconds / 2,
        ws_per_message_deflate=False,  # pictures do not get smaller, and a few bytes could unfold into a lot
        backlog=connections,  # asyncio accepts so many in one go, whether there are descriptors or not
        lifespan="off",  # entered by `_serve`, so that what it raises is told as it is
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=CANCEL_SECONDS,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            "FOURFOLD_TLS_CERT and FOURFOLD_TLS_KEY name no PEM certificate with its own, unlocked key"
        ) from error
    return config


def _bound(settings: Settings) -> socket.socket:
    """The listening address, taken before anything else is started."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = f"FOURFOLD_HOST={settings.host}, FOURFOLD_PORT={settings.port}: {error.strerror}"
        raise SettingsError(f"{reason}; take another address or port (0: any free one)") from error
    return listener


def _connections() -> int:
    """How many connections there are descriptors for, with as many descriptors as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS * DESCRIPTORS + RESERVED_DESCRIPTORS
    soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(CONNECTIONS, (soft - RESERVED_DESCRIPTORS) // DESCRIPTORS))
