"""Runs live relays: each in a worker process of its own, which is started again when it crashes.

What a relay is to do and how it ended is in `server.relay_store`, how it goes in `server.relay`, where it may connect to in
`server.targets`, what its worker does in `server.streams.relay`.
"""

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from engines.logs import belonging
from models.registry import find_model
from server.access import Caller
from server.errors import ServiceError
from server.load import Load
from server.metrics import Metrics
from server.relay import Relay, error_of
from server.relay_store import Plan, RelayRecord, RelayStore
from server.settings import Settings
from server.streams.pool import Worker
from server.streams.relay_protocol import Endpoint, RelayOptions
from server.streams.wire import WireError
from server.streams.worker import WorkerJob
from server.targets import Places, parse_place, same_place

log = logging.getLogger(__name__)

LIVE, UPSCALED = "live", "upscaled"
"""Applications of the RTMP server: what is published there, and what the service makes of it."""

HOOKS = ":rtmp"
"""Who owns the relays that came by hooks; no key can be called so."""

LISTEN_SECONDS = 2.0  # that a publisher waits for its relay, at most
START_SECONDS = 18.0  # that a stream has to begin after it was announced
TICK_SECONDS = 1.0
RETRY_SECONDS = 5  # after which a client that was sent away may try again
SILENCE_SECONDS = 30.0  # of a worker, until it is given up
BACKOFF_SECONDS = 0.5  # before a crashed worker is started again; twice as long each time
MAX_BACKOFF_SECONDS = 30.0
MAX_CRASHES = 10  # in a row, after which a relay has failed
STEADY_SECONDS = 60.0  # after which a crash is the first one again

PASSING = ("crashed", "busy", "unresolved")
"""Errors of starting and following a worker after which it is worth starting another."""

End = tuple[str | None, ServiceError | None]
"""Why a relay is over: its worker's word, or an error."""

Spawn = Callable[[WorkerJob], Awaitable[Worker]]


class Relays:
    """All relays. `start` before anything else."""

    def __init__(self, settings: Settings, spawn: Spawn, metrics: Metrics, keyed: bool) -> None:
        """Args:
        settings: see there.
        spawn: starts workers.
        metrics: where everything is counted.
        keyed: callers are told apart, so that each has a limit.
        """
        self._settings, self._spawn, self._metrics, self._keyed = settings, spawn, metrics, keyed
        self._places = Places(settings.rtmp_server, settings.relay_sources, settings.relay_targets)
        self._load = Load()
        metrics.streams_limit.labels("relay").set(settings.max_relays)
        self._store = RelayStore(settings.data_folder / "relays.sqlite3")
        self._token = f"ff_{secrets.token_urlsafe(32)}"
        self._active: dict[str, Relay] = {}
        self._expiries: dict[str, float] = {}  # id -> when, by the clock that does not jump
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def start(self) -> None:
        """Goes on with the relays of an earlier process.

        Raises:
            DatabaseError: the file of relays cannot be used.
        """
        await self._store.open()
        for record in await self._store.all():
            if record.finished is None:
                self._begin(self._register(record), None)
            else:
                self._set_expiry(record.id, record.finished)
        self._tasks = [asyncio.create_task(work, name="relays") for work in (self._tick(), self._expire())]

    async def stop(self, grace_seconds: float) -> None:
        """Has every relay send what it has, for some time; they go on at the next start."""
        self._closing = True
        running = [relay.task for relay in self._active.values() if relay.task]
        for relay in self._active.values():
            relay.stop("the service is shutting down")
        if running:
            await asyncio.wait(running, timeout=grace_seconds)
        for task in (*running, *self._tasks):
            task.cancel()
        await asyncio.gather(*running, *self._tasks, return_exceptions=True)
        await self._store.close()

    async def add(self, owner: Caller, plan: Plan) -> RelayRecord:
        """Starts a relay that somebody asks for.

        Raises:
            ServiceError: target_denied, invalid or unresolved: a URL; stream_busy: another relay publishes there; quota; busy.
        """
        self._check_room(owner)
        endpoints = await self._find(plan)
        self._check_room(owner)
        return await self._add(RelayRecord(_new_id(), owner.name, None, plan, time.time()), endpoints, None)

    async def publish(self, stream: str, publisher: str) -> None:
        """Somebody is about to publish a stream: starts its relay, or goes on with the one that lost its source.

        Returns when the relay listens, so that it misses nothing: the next keyframe may be many seconds away.

        Args:
            stream: name of the stream; checked.
            publisher: who, as the RTMP server tells its clients apart.

        Raises:
            ServiceError: stream_busy: somebody publishes it already; busy.
        """
        if relay := self._of_stream(stream):
            if relay.is_published(START_SECONDS) or relay.stopping.is_set():
                raise ServiceError("stream_busy", f"somebody publishes {stream} already; end that first, or take another name")
            relay.admit(publisher)
            return
        self._check_room(None)
        settings = self._settings
        source, target = (f"{settings.rtmp_server}/{application}/{stream}" for application in (LIVE, UPSCALED))
        model = find_model(settings.model, 4).name
        plan = Plan(source, target, model, 4, "auto", None, 2.0, settings.max_video_pixels)
        await self._add(RelayRecord(_new_id(), HOOKS, stream, plan, time.time()), None, publisher)
        if relay := self._of_stream(stream):
            with suppress(TimeoutError):
                await asyncio.wait_for(relay.listens.wait(), LISTEN_SECONDS)

    async def listens(self, stream: str) -> None:
        """The relay of a stream has been let in to play its source."""
        if relay := self._of_stream(stream):
            relay.listens.set()

    def published(self, stream: str, publisher: str) -> None:
        """Somebody stopped publishing, as far as is known; the worker will see for itself."""
        if relay := self._of_stream(stream):
            relay.gone(publisher)

    def is_own(self, token: str) -> bool:
        """Whether it is the token that this service's workers show to the RTMP server."""
        return hmac.compare_digest(self._token.encode(), token.encode())

    async def find(self, relay_id: str, owners: Sequence[str]) -> tuple[RelayRecord, dict[str, Any]]:
        """A relay and its figures. Raises: ServiceError: not_found: there is none, or it is someone else's."""
        record = await self._store.find(relay_id, owners)
        if record is None:
            raise ServiceError("not_found", "there is no such relay; it may have expired")
        return record, self._figures(record)

    async def listed(self, owners: Sequence[str], limit: int, after: str | None) -> list[tuple[RelayRecord, dict[str, Any]]]:
        """Their relays, newest first; those older than the relay `after`, if given."""
        return [(record, self._figures(record)) for record in await self._store.listed(owners, limit, after)]

    async def remove(self, relay_id: str, owners: Sequence[str]) -> None:
        """Ends a relay, and forgets it. Raises: ServiceError: not_found."""
        await self.find(relay_id, owners)
        if (relay := self._active.get(relay_id)) and relay.task:
            relay.stop("removed")
            await asyncio.wait([relay.task])
        self._expiries.pop(relay_id, None)
        await self._store.remove(relay_id)

    def _figures(self, record: RelayRecord) -> dict[str, Any]:
        relay, plan = self._active.get(record.id), record.plan
        figures = relay.figures() if relay else record.figures or {"state": "ended"}  # its end could not be filed
        ends = {"source": self._places.shown("source", plan.source), "target": self._places.shown("target", plan.target)}
        return figures | ends

    def _of_stream(self, stream: str) -> Relay | None:
        return next((relay for relay in self._active.values() if relay.record.stream == stream), None)

    def _check_room(self, owner: Caller | None) -> None:
        """Raises: ServiceError: quota, busy or restart."""
        settings = self._settings
        if self._closing:
            raise ServiceError("restart", "the service is shutting down; try again", retry_after=RETRY_SECONDS)
        if owner:
            most = owner.limits.streams or (settings.max_relays_per_key if self._keyed else settings.max_relays)
            if sum(relay.record.owner == owner.name for relay in self._active.values()) >= most:
                text = f"{owner.name} has {most} relays, as many as it may; remove one first"
                raise ServiceError("quota", text, retry_after=RETRY_SECONDS)
        if len(self._active) >= settings.max_relays:
            text = f"there are {settings.max_relays} relays, as many as may be"
            raise ServiceError("busy", text, retry_after=RETRY_SECONDS)
        if self._active and self._load.share > settings.relay_max_load:
            text = f"{self._load.share:.0%} of the processor is taken; relays are started below {settings.relay_max_load:.0%}"
            raise ServiceError("busy", text, retry_after=RETRY_SECONDS)

    async def _add(
        self, record: RelayRecord, endpoints: tuple[Endpoint, Endpoint] | None, publisher: str | None
    ) -> RelayRecord:
        """Files and starts a relay. Its place is taken at once, so that nobody else gets it meanwhile."""
        target = record.plan.target
        if any(same_place(relay.record.plan.target, target) for relay in self._active.values()):
            place = self._places.shown("target", target)
            raise ServiceError("stream_busy", f"a relay publishes to {place} already; remove it first")
        relay = self._register(record)
        if publisher is not None:
            relay.admit(publisher)
        try:
            await self._store.add(record)
        except BaseException:
            relay.end(None, None)
            self._leave(relay)
            raise
        self._begin(relay, endpoints)
        return record

    def _register(self, record: RelayRecord) -> Relay:
        labels = {relay.label for relay in self._active.values()}
        number = next(number for number in range(1, len(labels) + 2) if f"relay-{number}" not in labels)
        label = f"{LIVE}/{record.stream}" if record.stream else f"relay-{number}"
        relay = self._active[record.id] = Relay(record, self._metrics, label, self._settings.live_budget_ms / 1000)
        self._metrics.streams_active.labels("relay").inc()
        return relay

    def _leave(self, relay: Relay) -> None:
        del self._active[relay.record.id]
        self._metrics.streams_active.labels("relay").dec()

    def _begin(self, relay: Relay, endpoints: tuple[Endpoint, Endpoint] | None) -> None:
        with belonging(stream=relay.record.id):
            relay.task = asyncio.create_task(self._run(relay, endpoints), name="relay")

    async def _run(self, relay: Relay, endpoints: tuple[Endpoint, Endpoint] | None) -> None:
        """The whole of a relay."""
        end: End = None, None
        try:
            end = await self._work(relay, endpoints)
        except ServiceError as error:
            end = None, error
        except Exception:
            log.exception("%s failed", relay.label)
            end = None, ServiceError("internal", "the service failed on this relay; tell its operator")
        finally:
            relay.stopping.set()  # nobody is let in to it any more
            try:
                if not self._closing:
                    relay.end(*end)
                    await self._file(relay)
            finally:
                self._leave(relay)

    async def _work(self, relay: Relay, endpoints: tuple[Endpoint, Endpoint] | None) -> End:
        """Starts one worker after the other until one says that the relay is over.

        Raises:
            ServiceError: none could be started, or too many crashed.
        """
        crashes = 0
        while not relay.stopping.is_set():
            began = time.monotonic()
            try:
                worker = await self._started(relay, endpoints or await self._find(relay.record.plan))
                end = await self._follow(relay, worker)
                if relay.stopping.is_set() or not relay.is_awaited(START_SECONDS):
                    return end
                relay.begin_again()  # somebody was let in while it was ending
                endpoints = None
                continue
            except ServiceError as error:
                if relay.stopping.is_set():
                    break
                crashes = 1 if time.monotonic() - began > STEADY_SECONDS else crashes + 1
                if error.code not in PASSING or crashes > MAX_CRASHES:
                    raise
                self._metrics.stream_faults_total.labels(error.code).inc()
                relay.start_again(error)
            endpoints = None  # the names may stand for others by then
            with suppress(TimeoutError):
                pause = min(BACKOFF_SECONDS * 2 ** (crashes - 1), MAX_BACKOFF_SECONDS)
                await asyncio.wait_for(relay.stopping.wait(), pause)
        return None, None

    async def _find(self, plan: Plan) -> tuple[Endpoint, Endpoint]:
        """Both ends, looked up and allowed. Raises: ServiceError: see `Places.find`."""
        return await self._places.find("source", plan.source), await self._places.find("target", plan.target)

    async def _started(self, relay: Relay, endpoints: tuple[Endpoint, Endpoint]) -> Worker:
        (source, target), plan, settings = endpoints, relay.record.plan, self._settings
        options = RelayOptions(
            source=self._passing(source) if relay.record.stream else source,  # others show the play keys that they have
            target=self._passing(target),
            model=plan.model,
            scale=plan.scale,
            encoder=plan.encoder,
            bitrate=plan.bitrate,
            keyframe_seconds=plan.keyframe_seconds,
            pixels=plan.pixels,
            output_pixels=settings.max_output_pixels,
            frame_queue=settings.frame_queue,
            budget_seconds=settings.live_budget_ms / 1000,
            hold_seconds=settings.hold_seconds,
            source_timeout_seconds=settings.source_timeout_seconds,
            target_timeout_seconds=settings.target_timeout_seconds,
        )
        return await self._spawn(WorkerJob("relay", options.model_dump()))

    def _passing(self, endpoint: Endpoint) -> Endpoint:
        """What the service's own RTMP server lets pass: by the token, its calls of the hooks tell that it is us."""
        if not self._places.is_own(parse_place("target", endpoint.url)):
            return endpoint
        mark = "&" if "?" in endpoint.url else "?"
        return endpoint.model_copy(update={"url": f"{endpoint.url}{mark}token={self._token}"})

    async def _follow(self, relay: Relay, worker: Worker) -> End:
        """Takes in what a worker says, up to its last word.

        Raises:
            ServiceError: crashed: it ended without one, or says what makes no sense.
        """
        ending = asyncio.create_task(self._end_worker(relay, worker))
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    received = await worker.channel.receive()
                if received is None:
                    raise ServiceError("crashed", f"the process of this relay ended unexpectedly ({await worker.wait()})")
                message = json.loads(received[1])
                if message["type"] == "ended":
                    return str(message["reason"]), None
                if message["type"] == "error":
                    return None, error_of(message)
                relay.heed(message)
        except TimeoutError:
            raise ServiceError("crashed", f"the process of this relay said nothing for {SILENCE_SECONDS:g} s") from None
        except (KeyError, TypeError, ValueError, WireError) as error:
            raise ServiceError("crashed", f"the process of this relay said what it should not: {error}") from error
        finally:
            ending.cancel()
            await worker.aclose()

    async def _end_worker(self, relay: Relay, worker: Worker) -> None:
        """Once the relay is to stop: says so, and does not wait for ever."""
        await relay.stopping.wait()
        with suppress(ConnectionError):  # it is gone already
            await worker.channel.send_json({"type": "stop"})
        await asyncio.sleep(self._settings.shutdown_grace_seconds)
        worker.kill()

    async def _file(self, relay: Relay) -> None:
        finished = time.time()
        try:
            await self._store.end(relay.record.id, finished, relay.figures())
        except ServiceError as error:  # at the next start it goes on, and ends again
            log.error("the end of %s could not be filed: %s", relay.label, error.message)
        else:
            self._set_expiry(relay.record.id, finished)

    def _set_expiry(self, relay_id: str, finished: float) -> None:
        kept = self._settings.job_retention_seconds
        self._expiries[relay_id] = time.monotonic() + kept - min(max(0.0, time.time() - finished), kept)

    async def _tick(self) -> None:
        """Once a second: figures are taken, and relays end that nobody came for."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for relay in self._active.values():
                relay.tick()
                if (limit := relay.record.plan.seconds) and relay.age > limit:
                    relay.stop(f"a relay of {relay.record.owner} lasts {limit} s")
                if relay.record.stream and relay.waits(START_SECONDS):
                    relay.stop("nobody published it")
            if self._active:
                await asyncio.to_thread(self._load.sample)
            else:
                self._load.forget()

    async def _expire(self) -> None:
        """Forgets relays that ended long enough ago."""
        while True:
            await asyncio.sleep(min(60.0, self._settings.job_retention_seconds / 10))
            now = time.monotonic()
            for relay_id in [relay_id for relay_id, when in self._expiries.items() if when <= now]:
                try:
                    await self._store.remove(relay_id)
                    del self._expiries[relay_id]
                except ServiceError as error:
                    log.error("a relay could not be forgotten: %s", error.message)


def _new_id() -> str:
    return secrets.token_urlsafe(16)
