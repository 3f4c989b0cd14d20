"""Runs video jobs: a few at once, each in a worker process of its own, the oldest first.

What jobs are is in `server.job_store`, where their files lie in `server.storage`, what workers do in `server.streams.video`.
"""

import asyncio
import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from engines.logs import belonging
from server.errors import ServiceError, SettingsError
from server.job_store import Job, JobStore, Outcome
from server.metrics import Metrics
from server.settings import Settings
from server.storage import Storage, finished
from server.streams.pool import Worker, Workers
from server.streams.worker import WorkerJob

log = logging.getLogger(__name__)

SOURCE, RESULT = "source", "result.mp4"
"""Files of a job, in its folder."""

CHECKS = 2  # uploads that are looked at at once
CHECK_SECONDS = 10.0  # that opening an upload may take
STALL_SECONDS = 120.0  # without a frame, until a worker is given up
MEASURE_SECONDS = 1.0  # between two looks at the size of a result in the making
RETRY_SECONDS = 30  # what a client waits when the queue is full, and the queue when the disk is

T = TypeVar("T")

Heed = Callable[[dict[str, Any]], Awaitable[None]]
"""Takes what a worker says on its way."""


class Jobs:
    """All video jobs. `start` before anything else."""

    def __init__(self, settings: Settings, workers: Workers, metrics: Metrics, stall_seconds: float = STALL_SECONDS) -> None:
        """Args: stall_seconds: without progress, until a worker is killed and its job has failed."""
        self._settings, self._workers, self._metrics, self._stall_seconds = settings, workers, metrics, stall_seconds
        self._store = JobStore(settings.data_folder / "jobs.sqlite3")
        self.storage = Storage(settings.data_folder / "videos", settings.storage_bytes)
        self._locked = -1
        self._stopping = False
        self._uploads = 0
        self._checks = asyncio.Semaphore(CHECKS)
        self._queued = asyncio.Semaphore(0)  # one for each job in the queue, and for each that was removed from it
        self._claiming = asyncio.Lock()  # a job is in the queue or among `_running`, never between the two
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._progress: dict[str, Outcome] = {}
        self._expiries: dict[str, tuple[float, str]] = {}  # id -> when, by the clock that does not jump, and folder
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Takes up what an earlier process left: jobs that were cut off wait again, files that no job owns go.

        Raises:
            FourfoldError: the data folder cannot be used, or another service uses it.
        """
        self._locked = await asyncio.to_thread(_locked, self._settings.data_folder)
        try:
            await self._store.open()
            await self._take_up()
        except BaseException:
            os.close(self._locked)
            raise
        takers = [self._take() for _ in range(self._settings.max_jobs_running)]
        self._tasks = [asyncio.create_task(work, name="jobs") for work in (*takers, self._expire())]

    async def _take_up(self) -> None:
        jobs = await self._store.all()
        for job in jobs:
            if job.state == "cancelled":
                await self._store.remove(job.id)
            elif job.state == "queued":
                self._queued.release()
            else:
                self._set_expiry(job)
        await asyncio.to_thread(self.storage.open, {job.folder for job in jobs if job.state != "cancelled"})

    async def stop(self, grace_seconds: float) -> None:
        """Starts no more jobs and gives those that run some time; what is not done by then waits for the next start."""
        self._stopping = True
        if self._running:
            await asyncio.wait(self._running.values(), timeout=grace_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()
        os.close(self._locked)

    @asynccontextmanager
    async def upload(self) -> AsyncIterator[str]:
        """A place in the queue and the name of a folder for an upload, which is removed if the block fails.

        Raises:
            ServiceError: busy: the queue is full; restart: the service is shutting down; storage: no room.
        """
        self._uploads += 1
        try:
            await self._check_room()
            folder = await finished(self.storage.create)
            try:
                yield folder
            except BaseException:
                await finished(self.storage.remove, folder)
                raise
        finally:
            self._uploads -= 1

    async def check(self, folder: str, options: dict[str, Any]) -> None:
        """Has a worker open the upload in `folder` as the job would.

        Raises:
            ServiceError: what is wrong with it; busy: no worker could be started.
        """
        async with self._checks:
            await self._work("check", folder, options, CHECK_SECONDS, _ignore)

    async def add(self, owner: str, folder: str, options: dict[str, Any]) -> Job:
        """Makes a job of an upload that was checked, and queues it."""
        job = Job(secrets.token_urlsafe(16), owner, folder, options, "queued", time.time())
        await self._store.add(job)
        self._queued.release()
        return job

    async def find(self, job_id: str, owner: str) -> Job:
        """Raises: ServiceError: not_found: there is none, or it is someone else's."""
        job = await self._store.find(job_id, owner)
        if job is None:
            raise ServiceError("not_found", "there is no such video; it may have expired")
        return self._current(job)

    async def listed(self, owner: str, limit: int, after: str | None) -> list[Job]:
        """The owner's jobs, newest first; those older than the job `after`, if given."""
        return [self._current(job) for job in await self._store.listed(owner, limit, after)]

    async def remove(self, job_id: str, owner: str) -> None:
        """Ends a job, whatever it does, and removes all there is of it. Raises: ServiceError: not_found."""
        job = await self.find(job_id, owner)
        async with self._claiming:
            await self._store.set_state(job_id, "cancelled")
            running = self._running.get(job_id)
        if running:
            running.cancel()
            await asyncio.wait([running])
        await self._forget(job_id, job.folder)

    async def count(self) -> dict[str, int]:
        """How many jobs there are in each state. Raises: ServiceError: storage."""
        return await self._store.count()

    def path(self, job: Job) -> Path:
        """Where the result of a job lies, once it is done."""
        return self.storage.path(job.folder) / RESULT

    def _current(self, job: Job) -> Job:
        return replace(job, outcome=self._progress.get(job.id, job.outcome)) if job.state == "running" else job

    async def _check_room(self) -> None:
        if self._stopping:
            raise ServiceError("restart", "the service is shutting down; try again", retry_after=RETRY_SECONDS)
        limit = self._settings.max_jobs_queued
        if await self._store.waiting() + self._uploads > limit:
            raise ServiceError("busy", f"{limit} videos are waiting already; try later", retry_after=RETRY_SECONDS)

    async def _take(self) -> None:
        """Runs one job after the other."""
        while not self._stopping:
            await self._queued.acquire()
            async with self._claiming:
                job = None if self._stopping else await _insisted(self._store.claim)
                if job is None:
                    continue
                with belonging(job=job.id):
                    running = self._running[job.id] = asyncio.create_task(self._outcome(job), name="job")
            try:
                with belonging(job=job.id):
                    await self._end(job, running)
            finally:
                del self._running[job.id]
                self._progress.pop(job.id, None)

    async def _end(self, job: Job, running: asyncio.Task[Outcome]) -> None:
        """Waits for the end of a job and files it. One that is cut off here waits for the next start of the service."""
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait([running])
            if running.cancelled():
                await self._store.set_state(job.id, "queued")  # if this fails, the next start finds it running: the same
            else:  # it ended just now, and its upload is gone
                await self._store.end(job.id, running.result())
            raise
        if running.cancelled():  # removed by its owner
            return
        outcome = running.result()
        state = await _insisted(lambda: self._store.end(job.id, outcome))
        log.info("a video of %s is %s%s", job.owner, state, f": {outcome.error['code']}" if outcome.error else "")
        self._set_expiry(replace(job, state=state, finished=time.time()))

    async def _outcome(self, job: Job) -> Outcome:
        """Runs a job; what became of it. Leaves of its files only a whole result."""
        self._progress[job.id] = Outcome()
        try:
            await finished(self.storage.keep_only, job.folder, SOURCE)  # what an earlier run left goes
            outcome = await self._upscaled(job)
            with suppress(asyncio.CancelledError):  # too late: without its upload it could not be done again
                await finished(self.storage.keep_only, job.folder, RESULT)
            return outcome
        except ServiceError as error:
            fault = error
        except Exception:
            log.exception("a video of %s failed", job.owner)
            fault = ServiceError("internal", "the service failed on this video; tell its operator")
        with suppress(OSError, asyncio.CancelledError):
            await finished(self.storage.keep_only, job.folder)
        self._metrics.stream_faults_total.labels(fault.code).inc()
        return replace(self._progress[job.id], error={"code": fault.code, "message": fault.message})

    async def _upscaled(self, job: Job) -> Outcome:
        started = measured = time.monotonic()

        async def heed(message: dict[str, Any]) -> None:
            nonlocal measured
            now = time.monotonic()
            if "frames" in message:
                self._count(job, message["frames"])
                fps = round(message["frames"] / (now - started), 2)
                self._progress[job.id] = Outcome(message["frames"], message["total"], fps)
            if now - measured > MEASURE_SECONDS:
                measured = now
                await finished(self.storage.measure, job.folder)

        while True:
            try:
                done = await self._work("upscale", job.folder, job.options, self._stall_seconds, heed)
                break
            except ServiceError as error:
                if error.code != "busy":
                    raise
                await asyncio.sleep(error.retry_after or 1)  # the machine has no room for another process just now
        await finished(self.storage.measure, job.folder)  # a short job may have ended before it was measured
        figures = done["figures"]
        frames = figures["frames_out"]
        self._count(job, frames)
        return Outcome(frames, frames, figures["fps"], result=figures, notes=tuple(done["notes"]))

    def _count(self, job: Job, frames: int) -> None:
        """Counts what came since the last time; `frames` are those of the whole video so far."""
        self._metrics.frames_total.labels("video", "delivered").inc(max(0, frames - self._progress[job.id].frames))

    async def _work(self, task: str, folder: str, options: dict[str, Any], patience: float, heed: Heed) -> dict[str, Any]:
        """Has a worker do `task` with the files in `folder`; what it says at the end. Whatever happens, it is gone then."""
        paths = {"source": str(self.storage.path(folder) / SOURCE), "target": str(self.storage.path(folder) / RESULT)}
        worker = await self._workers.spawn(WorkerJob("video", {**options, **paths, "task": task}))
        try:
            while True:
                message = await _heard(worker, patience)
                if "error" in message:
                    raise ServiceError(**message["error"])
                if "done" in message:
                    return dict(message["done"])
                await heed(message)
        except BaseException:
            worker.kill()
            raise
        finally:
            await worker.aclose()

    def _set_expiry(self, job: Job) -> None:
        kept = self._settings.job_retention_seconds
        age = max(0.0, time.time() - (job.finished or job.created))
        self._expiries[job.id] = time.monotonic() + kept - min(age, kept), job.folder

    async def _expire(self) -> None:
        """Removes jobs that ended long enough ago."""
        while True:
            await asyncio.sleep(min(60.0, self._settings.job_retention_seconds / 10))
            now = time.monotonic()
            for job_id, folder in [(job_id, folder) for job_id, (when, folder) in self._expiries.items() if when <= now]:
                await _insisted(partial(self._forget, job_id, folder))

    async def _forget(self, job_id: str, folder: str) -> None:
        self._expiries.pop(job_id, None)
        await finished(self.storage.remove, folder)
        await self._store.remove(job_id)


async def _heard(worker: Worker, patience: float) -> dict[str, Any]:
    """What a worker says next. Raises: ServiceError: it says nothing for `patience` seconds, or is gone."""
    try:
        async with asyncio.timeout(patience):
            received = await worker.channel.receive()
    except TimeoutError:
        raise ServiceError(
            "decode_timeout", f"nothing came of this video for {patience:g} s; convert it and try again"
        ) from None
    if received is None:
        code = await worker.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise ServiceError(
            "crashed", f"the process that worked on this video ended unexpectedly ({how}); convert it and try again"
        )
    message: dict[str, Any] = json.loads(received[1])
    return message


async def _insisted(call: Callable[[], Awaitable[T]]) -> T:
    """What `call` gives, once it does: the disk may be full now, and jobs go on when it is not."""
    while True:
        try:
            return await call()
        except ServiceError as error:
            log.error("the state of a job could not be filed: %s", error.message)
            await asyncio.sleep(RETRY_SECONDS)


async def _ignore(message: dict[str, Any]) -> None:
    """Progress that nobody asked for."""


def _locked(folder: Path) -> int:
    """Makes the data folder and takes its lock, which goes with this process; the descriptor that holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(f"another service uses FOURFOLD_DATA_FOLDER={folder}; give each its own") from None
    except OSError as error:
        raise SettingsError(f"FOURFOLD_DATA_FOLDER={folder} cannot be used: {error.strerror}; name another folder") from error
    return descriptor
