"""Video jobs with real workers and a real engine process: what becomes of them, whatever happens meanwhile."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engines.client import EngineProcess
from engines.host import HostOptions
from server.catalogue import find_graphs
from server.database import DatabaseError
from server.errors import ServiceError, SettingsError
from server.job_store import MAX_CRASHES, Job, JobStore, Outcome
from server.jobs import RESULT, SOURCE, Jobs
from server.metrics import Metrics
from server.settings import Settings
from server.storage import Storage
from server.streams.pool import Worker, Workers
from server.streams.worker import WorkerJob
from tests.server.media.support import frames_of, packets_of
from tests.support import clips
from tests.support.hostile import PLAYLISTS, SECRET, canary, damaged, playlist, with_streams

pytestmark = pytest.mark.anyio

LIMITS = {"pixels": 1920 * 1080, "output_pixels": 8192 * 8192, "seconds": 86400, "side": 16}
OPTIONS = {"model": "bicubic", "scale": 2, "encoder": "auto", "crf": None, "height": None, "limits": LIMITS}
DAMAGED_FILES = int(os.environ.get("FOURFOLD_TEST_DAMAGED_FILES", "60"))


class WatchedWorkers(Workers):
    """Remembers whom it started."""

    def __init__(self, settings: Settings, engine_address: str) -> None:
        super().__init__(settings, engine_address)
        self.spawned: list[Worker] = []

    async def spawn(self, job: WorkerJob) -> Worker:
        worker = await super().spawn(job)
        if job.kind == "video":
            self.spawned.append(worker)
        return worker


@dataclass
class Bench:
    """Jobs in a folder, and what they run on."""

    jobs: Jobs
    workers: WatchedWorkers
    metrics: Metrics
    folder: Path

    async def add(self, path: Path, owner: str = "ann", **options: Any) -> Job:
        """Uploads and queues a file, unchecked."""
        async with self.jobs.upload() as folder:
            await asyncio.to_thread(shutil.copy, path, self.jobs.storage.path(folder) / SOURCE)
            return await self.jobs.add(owner, folder, OPTIONS | options)

    async def check(self, path: Path, **options: Any) -> None:
        """Uploads a file and looks at it."""
        async with self.jobs.upload() as folder:
            await asyncio.to_thread(shutil.copy, path, self.jobs.storage.path(folder) / SOURCE)
            await self.jobs.check(folder, OPTIONS | options)
            await asyncio.to_thread(self.jobs.storage.remove, folder)

    async def until(self, job: Job, reached: Callable[[Job], bool]) -> Job:
        """The job, once it is as it should be."""
        async with asyncio.timeout(60):
            while not reached(job := await self.jobs.find(job.id, job.owner)):
                await asyncio.sleep(0.02)
        return job

    async def ended(self, job: Job) -> Job:
        return await self.until(job, lambda job: job.state in ("done", "failed"))

    async def under_way(self, job: Job) -> Job:
        return await self.until(job, lambda job: job.outcome.frames > 5)

    async def files(self) -> list[str]:
        return await asyncio.to_thread(lambda: sorted(path.name for path in (self.folder / "videos").glob("*/*")))


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with engine_process() as process:
        yield process


def engine_process() -> EngineProcess:
    graphs = find_graphs("bicubic", 2, "yuv420")[1]
    return EngineProcess({f"{graphs.title}-yuv420": graphs}, HostOptions(2, "openvino", "fp32"))


@asynccontextmanager
async def bench(folder: Path, engine: EngineProcess, stall_seconds: float = 30, **settings: Any) -> AsyncIterator[Bench]:
    chosen = Settings(data_folder=folder / "data", **settings)
    workers, metrics = WatchedWorkers(chosen, engine.address), Metrics()
    await workers.start()
    try:
        jobs = Jobs(chosen, workers, metrics, stall_seconds)
        await jobs.start()
        try:
            yield Bench(jobs, workers, metrics, chosen.data_folder)
        finally:
            await jobs.stop(0)
    finally:
        await workers.stop(0)
    assert not any(Path(f"/proc/{worker.pid}").exists() for worker in workers.spawned)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write(tmp_path_factory.mktemp("clips") / "short.mp4", tone=True)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seconds of work."""
    return clips.write(tmp_path_factory.mktemp("clips") / "long.mp4", width=160, height=96, frames=600, rate=60)


async def test_a_job_is_done(tmp_path: Path, engine: EngineProcess, short: Path) -> None:
    async with bench(tmp_path, engine) as b:
        await b.check(short)
        job = await b.ended(await b.add(short))
        assert (job.state, job.outcome.frames, job.outcome.error) == ("done", 12, None)
        assert job.outcome.result is not None
        assert job.outcome.result["output"] == {"width": 96, "height": 64, "fps": 12.0, "codec": "h264"}
        assert "bicubic x2 on openvino" in job.outcome.notes[0]
        assert await b.files() == ["result.mp4"]
        result = b.jobs.path(job)
    assert await asyncio.to_thread(written, result) == (12, packets_of(short, "audio").data)


def written(path: Path) -> tuple[int, list[bytes]]:
    """Frames and audio packets of a file."""
    return len(frames_of(path)), packets_of(path, "audio").data


async def test_jobs_run_in_the_order_in_which_they_came(tmp_path: Path, engine: EngineProcess, short: Path) -> None:
    async with bench(tmp_path, engine) as b:
        jobs = [await b.add(short, f"owner {number}") for number in range(5)]
        ends = []
        for job in jobs:
            await b.ended(job)
            ends.append([(await b.jobs.find(other.id, other.owner)).state for other in jobs])
        assert all(states[: number + 1] == ["done"] * (number + 1) for number, states in enumerate(ends))
        assert ends[0][2:] == ["queued"] * 3


async def test_progress_and_speed_are_told(tmp_path: Path, engine: EngineProcess, long: Path) -> None:
    async with bench(tmp_path, engine) as b:
        job, seen = await b.add(long), list[int]()
        while (now := await b.jobs.find(job.id, "ann")).state != "done":
            seen.append(now.outcome.frames)
            await asyncio.sleep(0.1)
        assert seen == sorted(seen) and len(set(seen)) >= 4
        assert now.outcome.frames == 600 and now.outcome.fps > 10


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {  # clip, options, code, message
    "PQ": ({"tags": {"color_trc": 16}}, {}, "hdr", "it is HDR (PQ)"),
    "HLG": ({"tags": {"color_trc": 18}}, {}, "hdr", "it is HDR (HLG)"),
    "tiny": ({"width": 2, "height": 2}, {}, "dimensions", "its picture is 2x2"),
    "large": ({}, {"limits": LIMITS | {"pixels": 1000}}, "dimensions", "at most 1000 pixels"),
    "large result": ({}, {"limits": LIMITS | {"output_pixels": 6000}}, "dimensions", "the result would be 96x64"),
    "endless": ({"pts": range(0, 12_000_000, 1_000_000)}, {}, "unsupported", "at most 86400 s"),
    "encoder": ({}, {"encoder": "libx266"}, "encoder", "no encoder 'libx266'"),
    "no card": ({}, {"encoder": "h264_nvenc"}, "encoder", "NVIDIA"),
    "size of the encoder": ({"width": 4096, "height": 16}, {"height": 500}, "encoder", "refuses 128000x500"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_what_cannot_be_upscaled_is_refused_before_it_is_queued(tmp_path: Path, engine: EngineProcess, name: str) -> None:
    clip, options, code, message = REFUSALS[name]
    path = clips.write(tmp_path / "clip.mkv", **clip)
    async with bench(tmp_path, engine) as b:
        with pytest.raises(ServiceError) as caught:
            await b.check(path, **options)
        assert (caught.value.code, caught.value.status) == (code, 422)
        assert message in caught.value.message and str(tmp_path) not in caught.value.message
        assert await b.files() == []


@pytest.mark.parametrize("name", PLAYLISTS)
async def test_playlists_open_nothing(tmp_path: Path, engine: EngineProcess, name: str) -> None:
    local, fake = clips.write(tmp_path / f"{SECRET}.mp4"), tmp_path / "video.mp4"
    async with bench(tmp_path, engine) as b:
        with canary() as (port, seen):
            fake.write_bytes(playlist(name, local, port))
            started = time.monotonic()
            with pytest.raises(ServiceError) as caught:
                await b.check(fake)
            assert time.monotonic() - started < 1
        assert seen == []
        assert caught.value.code == "container" and SECRET not in caught.value.message


async def test_thousands_of_streams(tmp_path: Path, engine: EngineProcess) -> None:
    async with bench(tmp_path, engine) as b:
        with pytest.raises(ServiceError, match="more than 256 streams"):
            await b.check(with_streams(tmp_path / "clip.mp4", 3000))


async def test_damaged_files_fail_alone(tmp_path: Path, engine: EngineProcess, short: Path, long: Path) -> None:
    """Each is refused with a code of its own, or gives a whole file; a bystander is not disturbed."""
    originals = [short, clips.write(tmp_path / "a.mkv", codec="mpeg2video"), clips.write(tmp_path / "b.ts", tone=True)]
    originals += [clips.write(tmp_path / "c.avi", codec="mpeg4"), clips.write(tmp_path / "d.mkv", codec="ffv1", tone=True)]
    dice, bad, codes = random.Random(5), tmp_path / "bad", list[str]()
    async with bench(tmp_path, engine, max_jobs_running=2) as b:
        bystander = await b.add(long, "bob")
        for number in range(DAMAGED_FILES):
            bad.write_bytes(damaged(originals[number % len(originals)].read_bytes(), dice))
            try:
                await b.check(bad)
                job = await b.ended(await b.add(bad))
                codes.append(job.outcome.error["code"] if job.outcome.error else "done")
                if job.state == "done":
                    assert len(await asyncio.to_thread(frames_of, b.jobs.path(job))) == job.outcome.frames
                await b.jobs.remove(job.id, "ann")
            except ServiceError as error:
                codes.append(error.code)
        assert (await b.ended(bystander)).outcome.frames == 600
        assert await b.files() == ["result.mp4"]
    assert set(codes) <= {"done", "container", "unreadable", "unsupported", "dimensions", "crashed"}
    assert codes.count("crashed") <= 1 and codes.count("unreadable") > DAMAGED_FILES / 4


async def test_removing_a_running_job_ends_its_worker(tmp_path: Path, engine: EngineProcess, short: Path, long: Path) -> None:
    async with bench(tmp_path, engine) as b:
        job, waiting, last = await b.add(long), await b.add(long), await b.add(short)
        await b.under_way(job)
        for removed in (waiting, job):
            await b.jobs.remove(removed.id, "ann")
            with pytest.raises(ServiceError) as caught:
                await b.jobs.find(removed.id, "ann")
            assert caught.value.status == 404
        assert (await b.ended(last)).state == "done"
        assert len(b.workers.spawned) == 2  # the one that waited never ran
        assert await b.files() == ["result.mp4"]


async def test_only_the_owner_sees_a_job(tmp_path: Path, engine: EngineProcess, short: Path) -> None:
    async with bench(tmp_path, engine) as b:
        job = await b.add(short, "ann")
        for call in (b.jobs.find, b.jobs.remove):
            with pytest.raises(ServiceError) as caught:
                await call(job.id, "bob")
            assert caught.value.code == "not_found"
        assert await b.jobs.listed("bob", 10, None) == await b.jobs.listed("bob", 10, job.id) == []


async def test_jobs_survive_a_restart(tmp_path: Path, engine: EngineProcess, short: Path, long: Path) -> None:
    async with bench(tmp_path, engine) as b:
        jobs = [await b.add(path) for path in (short, long, short)]
        await b.ended(jobs[0])
        await b.under_way(jobs[1])
        (b.folder / "videos" / "left-over").mkdir()
        (b.folder / "videos" / "left-over" / SOURCE).write_bytes(b"cut off")
    async with bench(tmp_path, engine) as b:
        assert not (b.folder / "videos" / "left-over").exists()
        again = await b.jobs.find(jobs[1].id, "ann")
        assert again.state in ("queued", "running") and again.outcome.frames < 100  # from the start
        ends = [await b.ended(job) for job in jobs]
        assert [job.outcome.frames for job in ends] == [12, 600, 12]
        assert await b.files() == ["result.mp4"] * 3


async def test_a_job_during_which_the_service_dies_again_and_again_is_given_up(
    tmp_path: Path, engine: EngineProcess, short: Path
) -> None:
    async with bench(tmp_path, engine) as b:
        job = await b.ended(await b.add(short))
    for number in range(MAX_CRASHES):
        with sqlite3.connect(b.folder / "jobs.sqlite3") as database:
            database.execute("UPDATE jobs SET state = 'running'")
        database.close()
        async with bench(tmp_path, engine) as b:
            job = await b.ended(job)
            assert (job.outcome.error or {}).get("code") == ("unreadable" if number + 1 < MAX_CRASHES else "crashed")


async def test_finished_jobs_expire(tmp_path: Path, engine: EngineProcess, short: Path) -> None:
    async with bench(tmp_path, engine, job_retention_seconds=1) as b:
        job = await b.ended(await b.add(short))
        async with asyncio.timeout(30):
            while await b.jobs.listed("ann", 10, None):
                await asyncio.sleep(0.05)
        assert not b.jobs.path(job).parent.exists()


async def test_jobs_expire_over_a_restart(tmp_path: Path, engine: EngineProcess, short: Path) -> None:
    async with bench(tmp_path, engine) as b:
        await b.ended(await b.add(short))
    with sqlite3.connect(b.folder / "jobs.sqlite3") as database:
        database.execute("UPDATE jobs SET finished = finished - 5")
    database.close()
    async with bench(tmp_path, engine, job_retention_seconds=5) as b, asyncio.timeout(30):
        while await b.jobs.listed("ann", 10, None):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("kill", "code"), [(signal.SIGSEGV, "crashed"), (signal.SIGKILL, "crashed"), (signal.SIGSTOP, "decode_timeout")]
)
async def test_a_worker_that_dies_or_stalls_fails_its_job_alone(
    tmp_path: Path, engine: EngineProcess, long: Path, kill: signal.Signals, code: str
) -> None:
    async with bench(tmp_path, engine, stall_seconds=3, max_jobs_running=2) as b:
        job, bystander = await b.add(long), await b.add(long, "bob")
        await b.under_way(job)
        await b.under_way(bystander)
        os.kill(b.workers.spawned[0].pid, kill)
        failed = await b.ended(job)
        assert failed.outcome.error is not None and failed.outcome.error["code"] == code
        assert failed.outcome.frames > 5  # how far it came is still told
        assert (await b.ended(bystander)).outcome.frames == 600
        assert await b.files() == ["result.mp4"]
        assert b.metrics.registry.get_sample_value("fourfold_stream_faults_total", {"reason": code}) == 1


async def test_a_job_that_needs_too_much_memory_fails_alone(tmp_path: Path, engine: EngineProcess, short: Path) -> None:
    large = clips.write(tmp_path / "large.mp4", width=1920, height=1080, frames=24, options={"preset": "ultrafast"})
    async with bench(tmp_path, engine, video_memory_bytes=300 << 20, max_jobs_running=2) as b:
        job, bystander = await b.add(large, encoder="libx265"), await b.add(short, "bob")
        failed = await b.ended(job)
        assert failed.outcome.error is not None and failed.outcome.error["code"] in ("unsupported", "crashed", "encoder")
        assert (await b.ended(bystander)).state == "done"


@pytest.fixture
def mortal_engine() -> Iterator[EngineProcess]:
    with engine_process() as process:
        yield process


async def test_an_engine_that_is_started_again_fails_no_job(tmp_path: Path, mortal_engine: EngineProcess, long: Path) -> None:
    async with bench(tmp_path, mortal_engine) as b:
        job = await b.add(long)
        await b.under_way(job)
        mortal_engine.kill()
        await b.until(job, lambda job: job.outcome.frames == 0)
        await asyncio.sleep(1)
        assert (await b.jobs.find(job.id, "ann")).state == "running"
        mortal_engine.start()
        ended = await b.ended(job)
        assert (ended.state, ended.outcome.frames) == ("done", 600)
        assert await asyncio.to_thread(lambda: len(frames_of(b.jobs.path(job)))) == 600


async def test_the_queue_is_bounded(tmp_path: Path, engine: EngineProcess, long: Path) -> None:
    async with bench(tmp_path, engine, max_jobs_queued=2) as b:
        await b.under_way(await b.add(long))
        await b.add(long)
        async with b.jobs.upload() as folder:  # under way: it has a place
            with pytest.raises(ServiceError) as caught:
                await b.add(long)
            assert caught.value.code == "busy" and caught.value.retry_after
            await b.jobs.add("ann", folder, OPTIONS)


async def test_uploads_and_results_have_a_quota(tmp_path: Path, engine: EngineProcess, long: Path) -> None:
    size = long.stat().st_size
    async with bench(tmp_path, engine, storage_bytes=size + 100_000) as b:
        job = await b.ended(await b.add(long, crf=0))  # the result is larger than what is left
        assert job.outcome.error is not None and job.outcome.error["code"] == "storage"
        assert await b.files() == []
        async with b.jobs.upload() as folder:
            b.jobs.storage.charge(folder, size + 100_000)
            with pytest.raises(ServiceError) as caught:
                b.jobs.storage.charge(folder, size + 100_001)
            assert caught.value.status == 507
            await b.jobs.add("ann", folder, OPTIONS)


@pytest.fixture
def small_disk(tmp_path: Path, long: Path) -> Iterator[Path]:
    """A folder that holds the long clip and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={long.stat().st_size + 400_000}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk; the quota is tested without")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_fails_the_job_that_needs_more(
    small_disk: Path, engine: EngineProcess, short: Path, long: Path
) -> None:
    async with bench(small_disk, engine) as b:
        failed = await b.ended(await b.add(long, crf=0))
        assert failed.outcome.error is not None and failed.outcome.error["code"] == "storage"
        assert str(small_disk) not in failed.outcome.error["message"]
        assert await b.files() == []
        assert (await b.ended(await b.add(short))).state == "done"


async def test_a_data_folder_serves_one_service(tmp_path: Path, engine: EngineProcess) -> None:
    async with bench(tmp_path, engine):
        with pytest.raises(SettingsError, match="another service uses FOURFOLD_DATA_FOLDER"):
            async with bench(tmp_path, engine):
                pass


async def test_a_file_of_jobs_that_cannot_be_used_is_named(tmp_path: Path, engine: EngineProcess) -> None:
    async with bench(tmp_path, engine) as b:
        pass
    path = b.folder / "jobs.sqlite3"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(DatabaseError, match="written by a later version"):
        async with bench(tmp_path, engine):
            pass
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(DatabaseError, match="cannot be used"):
        async with bench(tmp_path, engine):
            pass


async def test_an_upload_that_takes_too_long_to_open_is_refused(
    tmp_path: Path, engine: EngineProcess, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.jobs.CHECK_SECONDS", 0.001)
    async with bench(tmp_path, engine) as b:
        with pytest.raises(ServiceError) as caught:
            await b.check(short)
        assert (caught.value.code, caught.value.status) == ("decode_timeout", 504)
        assert await b.files() == []


async def test_a_job_that_ends_while_the_service_stops_is_done(
    tmp_path: Path, engine: EngineProcess, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its upload is being removed when the stop comes: it could not be done again."""
    tidying, keep_only = asyncio.Event(), Storage.keep_only

    def slowly(storage: Storage, name: str, *kept: str) -> None:
        if kept == (RESULT,):
            loop.call_soon_threadsafe(tidying.set)
            time.sleep(0.3)
        keep_only(storage, name, *kept)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Storage, "keep_only", slowly)
    async with bench(tmp_path, engine) as b:
        job = await b.add(short)
        await tidying.wait()
    async with bench(tmp_path, engine) as b:
        assert (await b.jobs.find(job.id, "ann")).state == "done"
        assert await b.files() == [RESULT]


async def test_a_job_whose_end_is_being_filed_when_the_service_stops_is_done(
    tmp_path: Path, engine: EngineProcess, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's thread is busy: what was asked of it before the stop is done all the same."""
    filing, end = asyncio.Event(), JobStore.end

    async def late(store: JobStore, job_id: str, outcome: Outcome) -> str:
        busy = asyncio.create_task(store._do(lambda database: time.sleep(0.3)))
        await asyncio.sleep(0)
        filing.set()
        state = await end(store, job_id, outcome)
        await busy
        return state

    monkeypatch.setattr(JobStore, "end", late)
    async with bench(tmp_path, engine) as b:
        job = await b.add(short)
        await filing.wait()
    async with bench(tmp_path, engine) as b:
        assert (await b.jobs.find(job.id, "ann")).state == "done"
