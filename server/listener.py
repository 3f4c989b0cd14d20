"""uvicorn, as this service needs it: slow and crumbling requests end early, errors have one form, SIGTERM drains.

Knows nothing of what is served.
"""

import asyncio
import json
import logging
import resource
import signal
import socket
import ssl
from functools import partial
from secrets import token_hex
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server import logs
from server.app import create_app
from server.errors import ServiceError, SettingsError
from server.service import Service
from server.settings import Settings, is_loopback

log = logging.getLogger(__name__)

CRUMBS = 4096
"""Pieces of a body that may be small; beyond them, they hold CRUMB_BYTES each on average."""
CRUMB_BYTES = 64

CONNECTIONS = 4096  # at once, where there are descriptors for them
DESCRIPTORS = 4  # of one connection: its own, its worker's, a file, and one for another connection that is refused
RESERVED_DESCRIPTORS = 40  # for what is no connection: engine, forkserver, files, libraries
CANCEL_SECONDS = 2  # for requests that outlived the grace, to end after they were cancelled


class Protocol(HttpToolsProtocol):
    """One HTTP connection. uvicorn itself waits for ever for the end of a request's headers."""

    def __init__(self, *args: Any, service: Service, connections: int, **options: Any) -> None:
        """Args:
        service: whose settings and metrics are used.
        connections: that may be open at once.
        """
        super().__init__(*args, **options)
        self._service, self._most = service, connections
        self._deadline: asyncio.TimerHandle | None = None
        self._pieces = self._bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()
        if len(self.connections) > 2 * self._most:  # they do not even ask for anything
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()
        self._pieces = self._bytes = 0

    def on_headers_complete(self) -> None:
        self._headers_came()
        super().on_headers_complete()
        if len(self.connections) > self._most:
            error = ServiceError("busy", f"{self._most} connections are open already; try again", retry_after=1)
            self.scope["state"]["refusal"] = error

    def on_body(self, body: bytes) -> None:
        """Counts pieces: each costs this process more time than its sender."""
        self._pieces += 1
        self._bytes += len(body)
        if self._pieces > CRUMBS and self._bytes < self._pieces * CRUMB_BYTES:
            text = f"the body came in {self._pieces} pieces of less than {CRUMB_BYTES} bytes; send larger ones"
            self.scope["state"].setdefault("refusal", ServiceError("bad_request", text))
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP in the form of all errors."""
        self._service.metrics.rejected_total.labels("bad_request").inc()
        error = {"code": "bad_request", "message": "this is no HTTP/1.1 request", "request_id": token_hex(8)}
        body = json.dumps({"error": error}).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _expect_headers(self) -> None:
        """Starts the clock, unless it runs since the connection was made."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._service.settings.header_timeout_seconds, self.transport.close)

    def _headers_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


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
        engine = self._service.engine.info
        log.info("Fourfold serves %s with %s on %s %s", address, engine["title"], engine["backend"], engine["precision"])
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


def serve(settings: Settings) -> int:
    """Runs the service until a signal stops it, and gives the signal's number.

    Raises:
        FourfoldError: it cannot start; the message says why.
    """
    logs.configure()
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
    protocol = partial(Protocol, service=service, connections=connections)
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", protocol),
        ws="websockets-sansio",
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
