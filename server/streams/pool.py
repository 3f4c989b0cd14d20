"""Starts worker processes, in milliseconds: forked from a warm, single-threaded forkserver. The api process's side.

Knows nothing of what workers do; see `server.streams.worker`.
"""

import asyncio
import multiprocessing
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeVar

from server.errors import ServiceError
from server.streams import worker
from server.streams.picture_pool import PicturePool, PictureSettings
from server.streams.wire import AsyncChannel
from server.streams.worker import WorkerJob

HANG_UP_SECONDS = 1.0
"""What a worker gets to end by itself once nobody listens to it any more."""

T = TypeVar("T")


class WorkerSettings(PictureSettings, Protocol):
    """What is needed here of `server.settings.Settings`."""

    @property
    def worker_memory_bytes(self) -> int: ...


class Worker:
    """A running worker process, and the way to talk to it."""

    def __init__(self, channel: AsyncChannel, process: BaseProcess, exit_code: asyncio.Task[int]) -> None:
        assert process.pid is not None
        self.channel, self.pid = channel, process.pid
        self._process, self._exit_code = process, exit_code

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._exit_code.done()

    async def wait(self) -> int:
        """Waits until the process ends; its exit code, or minus the number of the signal that ended it."""
        return await asyncio.shield(self._exit_code)

    def kill(self) -> None:
        """Ends the process at once (SIGKILL), if it has not ended."""
        with suppress(ValueError):  # its process object is closed: it has
            self._process.kill()

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
        self._memory_bytes, self._engine_address = settings.worker_memory_bytes, engine_address
        self._context = multiprocessing.get_context("forkserver")
        # multiprocessing blocks, and two threads must not ask it for exit codes at once: this thread does all of it.
        self._thread = ThreadPoolExecutor(1, "workers")
        self._running: dict[asyncio.Task[int], Worker] = {}
        self._stopping = False
        self.pictures = PicturePool(self.spawn, settings)
        """The workers for pictures, which are always there."""

    async def start(self) -> None:
        """Starts the forkserver and the workers for pictures, so that no client waits for them.

        Raises:
            ServiceError: they cannot be started.
        """
        self._context.set_forkserver_preload(["server.streams.warm"])
        await self.pictures.start()

    async def stop(self, grace_seconds: float) -> None:
        """Starts no more workers, waits for the running ones, and kills those that take longer than `grace_seconds`."""
        self._stopping = True
        await self.pictures.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=grace_seconds)
        for late in self._running.values():
            late.kill()
        await asyncio.gather(*self._running)
        await asyncio.to_thread(self._thread.shutdown)

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
        except asyncio.CancelledError:  # nobody takes the worker: it ends as soon as it is there
            starting.add_done_callback(lambda task: None if task.exception() else task.result().kill())
            raise
        except (OSError, EOFError) as error:
            raise ServiceError("busy", "no worker process could be started just now; try again", retry_after=5) from error

    async def _spawn(self, job: WorkerJob) -> Worker:
        process, ours = await self._in_thread(lambda: self._started(job))
        exit_code = asyncio.create_task(self._reaped(process), name=f"worker-{process.pid}")
        worker = self._running[exit_code] = Worker(await AsyncChannel.open(ours), process, exit_code)
        exit_code.add_done_callback(self._running.pop)
        return worker

    def _started(self, job: WorkerJob) -> tuple[BaseProcess, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = (theirs, self._engine_address, job, self._memory_bytes)
            process = self._context.Process(target=worker.main, args=arguments, name=f"fourfold-{job.kind}", daemon=True)
            try:
                process.start()
            except BaseException:
                ours.close()
                raise
        return process, ours

    async def _reaped(self, process: BaseProcess) -> int:
        """Waits for a process, frees what is held for it, and gives its exit code."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(process.sentinel)
        return await self._in_thread(lambda: _closed(process))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _closed(process: BaseProcess) -> int:
    process.join()
    code = process.exitcode
    process.close()
    assert code is not None
    return code
