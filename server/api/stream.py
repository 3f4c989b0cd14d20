"""`/v1/stream`: frames in, frames out, over a WebSocket. The api process passes them on and never looks into them.

Each session has a worker process (`server.streams.live`). What a client may send, and when it is too slow, is decided here;
which frames are dropped, there. Nothing is held here but the message that is being passed on: back-pressure goes through.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.websockets import WebSocket, WebSocketDisconnect

from engines.logs import belonging
from server.access import Caller
from server.api._dependencies import caller_of_websocket, model_of, service_of, subprotocol_of
from server.api._stream_meter import SessionMeter
from server.api._stream_sessions import Sessions
from server.errors import ServiceError
from server.service import Service
from server.streams.pool import Worker
from server.streams.protocol import ARRIVAL, END, HEADER_BYTES, STAGES, Header, LiveOptions, Start, parse_header, parse_start
from server.streams.wire import Kind
from server.streams.worker import WorkerJob
from server.websocket import HURRY

log = logging.getLogger(__name__)

STATS_SECONDS = 1.0
TOO_BIG = 1009


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    app.state.sessions = Sessions(service.settings, service.metrics, service.keyring.required)
    yield


router = APIRouter(lifespan=_lifespan)


@router.websocket("/v1/stream")
async def stream(websocket: WebSocket) -> None:
    """See docs: a start message, then frames both ways."""
    owner = await caller_of_websocket(websocket, "streams")
    sessions: Sessions = websocket.app.state.sessions
    with sessions.place(owner) as place, belonging(stream=f"websocket-{place}"):
        await websocket.accept(subprotocol_of(websocket))
        metrics = service_of(websocket).metrics
        try:
            async with asyncio.timeout(owner.limits.seconds):
                await _converse(websocket, service_of(websocket), owner, place)
        except TimeoutError:
            raise ServiceError("quota", f"a session of {owner.name} lasts {owner.limits.seconds} s; start another") from None
        except ServiceError as error:
            metrics.stream_faults_total.labels(error.code).inc()
            raise
        except WebSocketDisconnect as left:
            if left.code == TOO_BIG:  # uvicorn has refused a message
                metrics.stream_faults_total.labels("too_large").inc()
            raise


async def _converse(websocket: WebSocket, service: Service, owner: Caller, place: int) -> None:
    """The whole of a session, after the handshake."""
    start = await _start_of(websocket, service.settings.body_timeout_seconds)
    options = _options(service, owner, start)
    worker = await service.workers.spawn(WorkerJob("live", options.model_dump()))
    meter = SessionMeter(service.metrics, f"websocket-{place}", options.model, options.budget_seconds)
    reason = "disconnected"
    log.info("a session of %s starts with %s", owner.name, options.model)
    try:
        await _Session(websocket, service, worker, meter).run()
        await websocket.close()
    except ServiceError as error:
        reason = error.code
        raise
    finally:
        log.info("the session ended: %s", reason)
        meter.close(reason)
        await worker.aclose()


async def _start_of(websocket: WebSocket, seconds: float) -> Start:
    try:
        async with asyncio.timeout(seconds):
            message = await websocket.receive()
    except TimeoutError:
        raise ServiceError("slow_body", f"the start message did not come within {seconds:g} s") from None
    _check_open(message)
    text = message.get("text")
    if text is None:
        raise ServiceError("bad_message", "the first message is the start message, as text; this one is binary")
    return parse_start(text)


def _options(service: Service, owner: Caller, start: Start) -> LiveOptions:
    settings = service.settings
    return LiveOptions(
        start=start,
        model=model_of(start.model or settings.model, start.scale).name,
        pixels=min(settings.max_video_pixels, owner.limits.pixels or settings.max_video_pixels),
        output_pixels=settings.max_output_pixels,
        frame_queue=settings.frame_queue,
        budget_seconds=settings.live_budget_ms / 1000,
    )


def _check_open(message: Any) -> None:
    """Raises: WebSocketDisconnect: the client is gone, or was sent away."""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006), message.get("reason"))


class _Session:
    """A client on one side, its worker on the other."""

    def __init__(self, websocket: WebSocket, service: Service, worker: Worker, meter: SessionMeter) -> None:
        self._websocket, self._service, self._worker, self._meter = websocket, service, worker, meter
        self._id: str = websocket.scope["state"]["request_id"]
        self._last = -1  # sequence number that came
        self._ready = asyncio.Event()  # the client was told that frames can come
        self._leaving = False  # the service is shutting down

    async def run(self) -> None:
        """Passes frames on until the client has had its end frame.

        Raises:
            WebSocketDisconnect: it left.
            ServiceError: why the session is over.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(self._listen())
                others = [listening, tasks.create_task(self._report()), tasks.create_task(self._leave(listening))]
                await self._answer()
                for task in others:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _listen(self) -> None:
        """The way in."""
        while True:
            message = await self._websocket.receive()
            _check_open(message)
            frame: bytes | None = message.get("bytes")
            if frame is None:
                raise ServiceError("bad_message", "frames are binary messages; text came")
            header = self._checked(parse_header(frame))
            # A frame without a payload only says that it is the last: it is no frame to be counted.
            empty_end = header.ends and len(frame) == HEADER_BYTES
            arrival = time.monotonic() if empty_end else self._meter.arrived(header.sequence)
            await self._pass_on(arrival, frame)

    def _checked(self, header: Header) -> Header:
        if header.sequence <= self._last:
            raise ServiceError("bad_message", f"sequence numbers rise; {header.sequence} came after {self._last}")
        self._last = header.sequence
        return header

    async def _pass_on(self, arrival: float, frame: bytes) -> None:
        try:
            await self._worker.channel.send_frame(ARRIVAL.pack(arrival), frame)
        except ConnectionError:
            await asyncio.Event().wait()  # the worker is gone; the way out knows why

    async def _answer(self) -> None:
        """The way out, up to the end frame."""
        while (received := await self._worker.channel.receive()) is not None:
            kind, data = received
            if kind is Kind.JSON:
                await self._tell(json.loads(data))
            elif await self._deliver(data):
                return
        raise ServiceError("crashed", "the process of this session ended unexpectedly; connect again")

    async def _deliver(self, data: bytes) -> bool:
        """One frame; whether it was the last."""
        header = parse_header(data, STAGES.size)
        if header.ends:
            if self._leaving:
                raise ServiceError("restart", "the service is shutting down; connect again")
            await self._send({"type": "websocket.send", "bytes": data[STAGES.size :]})
            return True
        header = header._replace(server_us=round(self._meter.seconds_inside(header.sequence) * 1e6) & 0xFFFFFFFF)
        started = time.monotonic()
        payload = memoryview(data)[STAGES.size + HEADER_BYTES :]
        await self._send({"type": "websocket.send", "bytes": b"".join((header.pack(), payload))})
        self._meter.delivered(header.sequence, STAGES.unpack_from(data), time.monotonic() - started)
        return False

    async def _tell(self, words: dict[str, Any]) -> None:
        """What the worker says of the session."""
        match words["type"]:
            case "ready":
                words["session"] = self._id
                self._ready.set()
            case "dropped":
                self._meter.dropped(words["sequence"], words["reason"])
            case "model":
                self._meter.switched(words["model"], words["reason"])
            case "error" if "sequence" in words:
                self._meter.failed(words["sequence"])
            case "error":
                raise ServiceError(words["code"], words["message"])
        await self._send_words(words)

    async def _report(self) -> None:
        await self._ready.wait()
        while True:
            await asyncio.sleep(STATS_SECONDS)
            await self._send_words(self._meter.stats())

    async def _leave(self, listening: asyncio.Task[None]) -> None:
        """Once the service is to stop: takes nothing more, and lets the frames end that are here."""
        await self._service.draining.wait()
        self._leaving = True
        listening.cancel()
        await self._pass_on(time.monotonic(), Header(max(0, self._last), END).pack())

    async def _send_words(self, words: dict[str, Any]) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(words, separators=(",", ":"))})

    async def _send(self, message: dict[str, Any]) -> None:
        """Sends, once the client has taken what was sent before.

        Raises:
            ServiceError: slow_consumer.
        """
        seconds = self._service.settings.slow_consumer_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._websocket.send(message)
        except TimeoutError:
            self._websocket.scope["state"][HURRY] = True
            raise ServiceError("slow_consumer", f"nothing was read for {seconds:g} s; read the answers faster") from None
