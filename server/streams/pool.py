"""Starts worker processes, in milliseconds: forked from a warm process that has no threads. The api process's side.

Knows nothing of what workers do; see `server.streams.worker` and, for the process in between, `server.streams.forkserver`.
"""

import asyncio
import logging
import os
import signal
import socket
from contextlib import suppress
from typing import Protocol

from engines.logs import about
from server.errors import ServiceError
from server.streams.forkserver_client import Forkserver
from server.streams.picture_pool import PicturePool, PictureSettings
from server.streams.wire import AsyncChannel
from server.streams.worker import WorkerJob, WorkKind

log = logging.getLogger(__name__)

HANG_UP_SECONDS = 1.0
"""What a worker gets to end by itself once nobody listens to it any more."""


class WorkerSettings(PictureSettings, Protocol):
    """What is needed here of `server.settings.Settings`."""

    @property
    def worker_memory_bytes(self) -> int: ...
    @property
    def video_memory_bytes(self) -> int: ...
    @property
    def relay_memory_bytes(self) -> int: ...


class Worker:
    """A running worker process, and the way to talk to it."""

    def __init__(self, channel: AsyncChannel, pid: int, exit_code: asyncio.Future[int]) -> None:
        self.channel, self.pid = channel, pid
        self._exit_code = exit_code

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._exit_code.done()

    async def wait(self) -> int:
        """Waits until the process ends; its exit code, or minus the number of the signal that ended it."""
        return await asyncio.shield(self._exit_code)

    def kill(self) -> None:
        """Ends the process at once (SIGKILL), if it has not ended."""
        if not self.ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def aclose(self) -> None:
        """Hangs up, gives the process a moment to end, kills it if it does not, and waits until it is gone."""
        await self.channel.aclose()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), HANG_UP_SECONDS)
        self.kill()
        await self.wait()


class Workers:
    """Starts workers and sees each of them to its end."""

    def __init__(self, settings: WorkerSettings, engine_address: str) -> None:
        self._engine_address = engine_address
        self._memory_bytes: dict[WorkKind, int] = {
            "pictures": settings.worker_memory_bytes,
            "live": settings.worker_memory_bytes,
            "video": settings.video_memory_bytes,
            "relay": settings.relay_memory_bytes,
        }
        self._forkserver: Forkserver | None = None
        self._starting = asyncio.Lock()
        self._stopping = False
        self._running: set[Worker] = set()
        self.pictures = PicturePool(self.spawn, settings)
        """The workers for pictures, which are always there."""

    @property
    def running(self) -> list[Worker]:
        """Every worker that has not ended."""
        return [worker for worker in self._running if not worker.ended]

    async def start(self) -> None:
        """Starts the forkserver and the workers for pictures, so that no client waits for them.

        Raises:
            ServiceError: they cannot be started.
        """
        try:
            await self.pictures.start()
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace_seconds: float) -> None:
        """Starts no more workers, waits for the running ones, and kills those that take longer than `grace_seconds`."""
        self._stopping = True
        await self.pictures.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                await asyncio.gather(*(worker.wait() for worker in self.running))
        for late in self.running:
            late.kill()
            await late.aclose()
        if self._forkserver:
            await self._forkserver.aclose()

    async def spawn(self, job: WorkerJob) -> Worker:
        """Starts a worker.

        Raises:
            ServiceError: `busy`: the machine has no room for another process; `restart`: the service is shutting down.
        """
        if self._stopping:
            raise ServiceError("restart", "the service is shutting down; try again", retry_after=5)
        starting = asyncio.create_task(self._spawn(job))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:  # nobody will take the worker
            with suppress(OSError):
                await (await starting).aclose()
            raise
        except OSError as error:
            log.warning("no worker can be started: %s", error)
            raise ServiceError("busy", "no worker process can be started just now; try again", retry_after=5) from error

    async def _spawn(self, job: WorkerJob) -> Worker:
        async with self._starting:
            if self._forkserver is None or self._forkserver.gone:
                self._forkserver = await Forkserver.started()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                memory_bytes = self._memory_bytes[job.kind]
                request = {
                    "engine_address": self._engine_address,
                    "memory_bytes": memory_bytes,
                    "about": _owner_of(job),
                    **vars(job),
                }
                pid, exit_code = await self._forkserver.fork(request, theirs)
        except BaseException:
            ours.close()
            raise
        worker = Worker(await AsyncChannel.open(ours), pid, exit_code)
        self._running.add(worker)
        exit_code.add_done_callback(lambda _: self._running.discard(worker))
        return worker


def _owner_of(job: WorkerJob) -> dict[str, str]:
    """What a worker's lines in the log belong to. Those for pictures work for everyone."""
    return {} if job.kind == "pictures" else about()
