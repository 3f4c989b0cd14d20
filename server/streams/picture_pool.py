"""The workers for pictures, as the api process sees them: a few warm processes, each with one picture at a time.

Untrusted bytes pass through here unread. A worker that hangs or dies takes one picture with it, and is replaced.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any, Protocol

from server.errors import ServiceError
from server.memory import MemoryBudget, Take
from server.streams.pictures import PictureResult, PictureTask
from server.streams.wire import WireError
from server.streams.worker import WorkerJob

if TYPE_CHECKING:
    from server.streams.pool import Worker

log = logging.getLogger(__name__)

WAITING_PER_WORKER = 16
"""Pictures that may wait for each worker; the next ones are told to come back."""

PICTURES_HELD = 8
"""Pictures of the largest size that are held in memory at once; of smaller ones, more."""

RETRY_SECONDS = 2

Spawn = Callable[[WorkerJob], Coroutine[Any, Any, "Worker"]]
"""`server.streams.pool.Workers.spawn`."""

_LATE = {"decode": "decode_timeout", "infer": "engine_timeout", "encode": "decode_timeout"}
_NONSENSE = (AttributeError, KeyError, TypeError, ValueError, WireError)


class PictureSettings(Protocol):
    """What the pool needs of `server.settings.Settings`."""

    @property
    def image_workers(self) -> int: ...
    @property
    def image_timeout_seconds(self) -> float: ...
    @property
    def max_image_bytes(self) -> int: ...
    @property
    def max_output_pixels(self) -> int: ...


@dataclass(frozen=True)
class UpscaledPicture:
    """A new picture file, in pieces, and what is known about it."""

    about: PictureResult
    pieces: list[bytes]


class PicturePool:
    """Upscales pictures in worker processes."""

    def __init__(self, spawn: Spawn, settings: PictureSettings) -> None:
        self._spawn, self._timeout_seconds = spawn, settings.image_timeout_seconds
        self._idle: list[Worker | None] = [None] * settings.image_workers  # None: to be started when it is needed
        self._free = asyncio.Semaphore(settings.image_workers)
        self._most_waiting = settings.image_workers * WAITING_PER_WORKER
        self._closing: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.waiting = 0
        """Pictures that wait for a worker."""
        self.memory = MemoryBudget(PICTURES_HELD * settings.max_image_bytes + 4 * settings.max_output_pixels)
        """For pictures that come and go; the largest result there can be, four bytes a pixel, always finds room in it."""

    async def start(self) -> None:
        """Starts all workers, and waits until they are warm.

        Raises:
            ServiceError: they cannot be started.
        """
        self._idle = [await self._spawn(WorkerJob("pictures")) for _ in self._idle]
        for worker in filter(None, self._idle):
            if not await worker.channel.receive():
                raise ServiceError("crashed", "the workers for pictures do not start")

    async def stop(self) -> None:
        """Ends the workers; those that have a picture now, after that."""
        self._stopped = True
        for worker in self._idle:
            self._let_go(worker)
        self._idle = [None] * len(self._idle)
        await asyncio.gather(*self._closing)

    async def upscale(self, task: PictureTask, file: bytes | bytearray, take: Take) -> UpscaledPicture:
        """Upscales one picture.

        Args:
            task: what to do.
            file: the picture.
            take: of `memory`, for the result.

        Raises:
            ServiceError: busy: too many wait; decode_timeout, engine_timeout: it took too long; unreadable, crashed: its worker
                ended; and what the worker says of the picture.
        """
        started = time.monotonic()
        async with self._worker() as worker:
            waited = time.monotonic() - started
            told = await _Conversation(worker, take).upscale(task, file, self._timeout_seconds)
        if isinstance(told, ServiceError):
            raise told
        seconds = told.about.seconds | {"queue": told.about.seconds["queue"] + waited}
        return UpscaledPicture(replace(told.about, seconds=seconds), told.pieces)

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator["Worker"]:
        """A worker for one picture. It is replaced if the block fails: nobody knows what it is doing then."""
        await self._turn()
        worker = self._idle.pop()
        try:
            if worker is None or worker.ended:
                self._let_go(worker)
                worker = None
                worker = await self._spawn(WorkerJob("pictures"))
            yield worker
        except BaseException:
            self._let_go(worker)
            worker = None
            raise
        finally:
            if self._stopped:
                self._let_go(worker)
            self._idle.append(None if self._stopped else worker)
            self._free.release()

    async def _turn(self) -> None:
        """Waits for a worker to be free; `release` follows."""
        if self.waiting >= self._most_waiting:
            raise ServiceError("busy", f"{self.waiting} pictures wait already; try again", retry_after=RETRY_SECONDS)
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1

    def _let_go(self, worker: "Worker | None") -> None:
        if worker:
            worker.kill()
            closing = asyncio.create_task(worker.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


class _Conversation:
    """One picture with one worker; see `server.streams.pictures`."""

    def __init__(self, worker: "Worker", take: Take) -> None:
        self._worker, self._take = worker, take
        self._stage = "decode"

    async def upscale(self, task: PictureTask, file: bytes | bytearray, seconds: float) -> UpscaledPicture | ServiceError:
        """The result, or why the worker refused.

        Raises:
            ServiceError: it took longer than `seconds`, or the worker ended or went mad.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._spoken(task, memoryview(file))
        except TimeoutError as error:
            message = f"the picture took longer than {seconds:g} s; try a smaller one, or later"
            raise ServiceError(_LATE[self._stage], message) from error
        except _NONSENSE as error:
            log.error("a worker for pictures said what makes no sense and is ended: %r", error)
            raise ServiceError("crashed", "the process that worked on this picture failed") from error

    async def _spoken(self, task: PictureTask, file: memoryview) -> UpscaledPicture | ServiceError:
        try:
            await self._worker.channel.send_json(asdict(task))
            await self._worker.channel.send_frame(file)
            while True:
                said = json.loads(await self._received())
                if "error" in said:
                    return ServiceError(said["error"], said["message"], retry_after=said["retry_after"])
                if "result" in said:
                    return await self._taken(PictureResult(**said["result"]))
                self._stage = said.get("stage", self._stage)
        except ConnectionError:
            raise self._crashed(await self._worker.wait()) from None

    async def _taken(self, about: PictureResult) -> UpscaledPicture:
        self._take(about.bytes)
        pieces: list[bytes] = []
        left = about.bytes
        while left > 0:
            pieces.append(await self._received())
            left -= len(pieces[-1])
        if left:
            raise WireError("a result is longer than was said")
        return UpscaledPicture(about, pieces)

    async def _received(self) -> bytes:
        message = await self._worker.channel.receive()
        if message is None:
            raise ConnectionError
        return message[1]

    def _crashed(self, exit_code: int) -> ServiceError:
        log.warning("a worker for pictures ended with %d while it was to %s", exit_code, self._stage)
        if self._stage == "decode" and exit_code not in (-SIGKILL, -SIGTERM):  # those come from outside
            return ServiceError("unreadable", "the picture is damaged: its decoder failed on it")
        return ServiceError("crashed", "the process that worked on this picture ended; try again")
