"""Worker processes: started warm, locked in, seen to their end, and never left behind."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.errors import ServiceError
from server.settings import Settings
from server.streams.pictures import PictureTask
from server.streams.pool import Worker, Workers
from server.streams.worker import WorkerJob
from tests.support.pictures import encoded, ramp

pytestmark = pytest.mark.anyio

PICTURES = WorkerJob("pictures")
NO_ENGINE = "/nowhere/engine"


@asynccontextmanager
async def workers(**settings: Any) -> AsyncIterator[Workers]:
    pool = Workers(Settings(image_workers=1, **settings), NO_ENGINE)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop(5)


async def spawned(pool: Workers) -> Worker:
    """A worker that is ready."""
    worker = await pool.spawn(PICTURES)
    assert await worker.channel.receive()
    return worker


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def status(pid: int, key: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(key))


def alive(pid: int) -> bool:
    try:
        return status(pid, "State")[0] not in "ZX"
    except FileNotFoundError:
        return False


def held() -> tuple[int, int, int]:
    """Descriptors and threads of this process, and processes below it that the kernel knows, zombies too."""
    below, left = 0, [os.getpid()]
    while left:
        pid = left.pop()
        new = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        below += len(new)
        left += map(int, new)
    descriptors, threads = (len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("fd", "task"))
    return descriptors, threads, below


async def test_the_forkserver_has_one_thread_and_no_engine() -> None:
    async with workers() as pool:
        worker = await spawned(pool)
        forkserver = int(status(worker.pid, "PPid"))
        assert status(forkserver, "Threads") == status(worker.pid, "Threads") == "1"
        libraries = Path(f"/proc/{forkserver}/maps").read_text()
        assert "libav" in libraries and "openvino" not in libraries and "torch" not in libraries
        await worker.aclose()


async def test_a_worker_holds_its_own_channel_and_nothing_else() -> None:
    async with workers() as pool:
        first, second = await spawned(pool), await spawned(pool)
        for worker in (first, second):
            folder = Path(f"/proc/{worker.pid}/fd")
            held_by_it = {int(path.name): str(path.readlink()) for path in folder.iterdir() if int(path.name) > 2}
            assert len(held_by_it) == 1 and next(iter(held_by_it.values())).startswith("socket:")
            assert "Max core file size        0" in Path(f"/proc/{worker.pid}/limits").read_text()
        await asyncio.gather(first.aclose(), second.aclose())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_the_end_of_a_worker_is_noticed_with_its_reason(number: signal.Signals) -> None:
    async with workers() as pool:
        worker, bystander = await spawned(pool), await spawned(pool)
        assert not worker.ended
        os.kill(worker.pid, number)
        assert await worker.channel.receive() is None
        assert await worker.wait() == await worker.wait() == -number
        assert worker.ended and not alive(worker.pid)
        worker.kill()  # of something that has ended: nothing
        await worker.aclose()
        assert alive(bystander.pid)
        await bystander.aclose()


async def test_ctrl_c_is_not_the_workers_business() -> None:
    async with workers() as pool:
        worker = await spawned(pool)
        os.kill(worker.pid, signal.SIGINT)
        await worker.channel.aclose()
        assert await worker.wait() == 0


async def test_who_is_hung_up_on_ends_and_who_hangs_is_killed() -> None:
    async with workers() as pool:
        polite, stuck = await spawned(pool), await spawned(pool)
        os.kill(stuck.pid, signal.SIGSTOP)
        await asyncio.gather(polite.aclose(), stuck.aclose())
        assert (await polite.wait(), await stuck.wait()) == (0, -signal.SIGKILL)


async def test_stopping_kills_what_does_not_end() -> None:
    async with workers() as pool:
        stuck = await spawned(pool)
        os.kill(stuck.pid, signal.SIGSTOP)
        await pool.stop(0.1)
        assert await stuck.wait() == -signal.SIGKILL
        await stuck.aclose()
        with pytest.raises(ServiceError) as caught:
            await pool.spawn(PICTURES)
        assert caught.value.code == "restart"


async def test_a_spawn_that_nobody_waits_for_leaves_nothing() -> None:
    async with workers() as pool:
        before = held()
        for delay in (0, 0.001, 0.003, 0.01):
            spawning = asyncio.create_task(pool.spawn(PICTURES))
            await asyncio.sleep(delay)
            if not spawning.cancel():
                await spawning.result().aclose()
        await until(lambda: held() == before)


async def test_hundreds_of_workers_leave_nothing() -> None:
    async with workers() as pool:
        await (await spawned(pool)).aclose()
        before = held()
        for number in range(100):
            some = await asyncio.gather(*(pool.spawn(PICTURES) for _ in range(3)))
            some[number % 3].kill()
            await asyncio.gather(*(worker.aclose() for worker in some))
        await until(lambda: held() == before)


async def test_without_descriptors_there_is_a_clear_no_and_later_a_worker() -> None:
    async with workers() as pool:
        bystander = await spawned(pool)
        before = held()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            for room in range(12):
                resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] + room, hard))
                try:
                    await (await pool.spawn(PICTURES)).aclose()
                except ServiceError as error:
                    assert (error.code, error.retry_after) == ("busy", 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await (await spawned(pool)).aclose()
        await until(lambda: held() == before)
        assert not bystander.ended
        await bystander.aclose()


async def test_a_fork_that_fails_fails_alone() -> None:
    async with workers() as pool:
        bystander = await spawned(pool)
        forkserver = int(status(bystander.pid, "PPid"))
        soft, hard = resource.prlimit(forkserver, resource.RLIMIT_NOFILE)
        resource.prlimit(forkserver, resource.RLIMIT_NOFILE, (3, hard))  # so that it cannot take the worker's socket
        with pytest.raises(ServiceError) as caught:
            await pool.spawn(PICTURES)
        assert caught.value.code == "busy"
        resource.prlimit(forkserver, resource.RLIMIT_NOFILE, (soft, hard))
        await (await spawned(pool)).aclose()
        assert not bystander.ended
        await bystander.aclose()


async def test_the_forkserver_killed_takes_its_workers_along_and_comes_back() -> None:
    async with workers() as pool:
        worker = await spawned(pool)
        os.kill(int(status(worker.pid, "PPid")), signal.SIGKILL)
        assert await worker.wait() != 0
        await until(lambda: not alive(worker.pid))
        await worker.aclose()
        await (await spawned(pool)).aclose()


async def test_the_api_killed_leaves_no_orphans() -> None:
    script = f"""
import asyncio, sys
from server.settings import Settings
from server.streams.pool import Workers
from server.streams.worker import WorkerJob

async def main():
    pool = Workers(Settings(image_workers=1), {NO_ENGINE!r})
    await pool.start()
    some = [await pool.spawn(WorkerJob("pictures")) for _ in range(3)]
    print(*(worker.pid for worker in some), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as api:
        assert api.stdout
        pids = [int(word) for word in (await asyncio.to_thread(api.stdout.readline)).split()]
        assert len(pids) == 3
        pids.append(int(status(pids[0], "PPid")))  # the forkserver
        os.kill(pids[0], signal.SIGSTOP)  # even who cannot see that the api is gone
        api.kill()
    await until(lambda: not any(map(alive, pids)))


async def test_a_worker_that_needs_too_much_memory_refuses_that_picture_alone() -> None:
    async with workers(worker_memory_bytes=120 << 20) as pool:
        large, small = (encoded(ramp(side, side), "PNG") for side in (4000, 100))
        task = PictureTask("bicubic-x2-rgb", 2, "PNG", 95, 1 << 26, 1 << 28)
        with pytest.raises(ServiceError) as caught:
            await pool.pictures.upscale(task, large, lambda size: None)
        assert caught.value.code == "unsupported" and "memory" in caught.value.message
        limited = PictureTask("bicubic-x2-rgb", 2, "PNG", 95, 9_999, 1 << 28)
        with pytest.raises(ServiceError, match="100x100 pixels; at most 9999"):
            await pool.pictures.upscale(limited, small, lambda size: None)


async def test_a_picture_that_hangs_costs_its_worker_and_nobody_else_anything() -> None:
    async with workers(image_timeout_seconds=1.0) as pool:
        task = PictureTask("bicubic-x2-rgb", 2, "PNG", 95, 1, 1)
        before = held()
        stuck = next(iter(pool.running)).pid
        os.kill(stuck, signal.SIGSTOP)
        waiting = [asyncio.create_task(pool.pictures.upscale(task, b"no picture", lambda size: None)) for _ in range(3)]
        codes = [await code_of(request) for request in waiting]
        assert codes == ["decode_timeout", "unsupported_type", "unsupported_type"]
        assert not alive(stuck)
        await until(lambda: held() == before)


async def code_of(request: "asyncio.Task[object]") -> str:
    with pytest.raises(ServiceError) as caught:
        await request
    return caught.value.code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGSEGV, "unreadable"), (signal.SIGKILL, "crashed")])
async def test_a_picture_that_crashes_its_worker_fails_alone(number: signal.Signals, code: str) -> None:
    async with workers() as pool:
        task = PictureTask("bicubic-x2-rgb", 2, "PNG", 95, 1, 1)
        victim = next(iter(pool.running)).pid
        os.kill(victim, signal.SIGSTOP)
        first, second = (asyncio.create_task(pool.pictures.upscale(task, b"no picture", lambda size: None)) for _ in range(2))
        await asyncio.sleep(0.05)
        os.kill(victim, number)
        os.kill(victim, signal.SIGCONT)
        assert [await code_of(first), await code_of(second)] == [code, "unsupported_type"]


async def test_more_pictures_than_may_wait_are_told_to_come_back() -> None:
    async with workers() as pool:
        task = PictureTask("bicubic-x2-rgb", 2, "PNG", 95, 1, 1)
        stuck = next(iter(pool.running)).pid
        os.kill(stuck, signal.SIGSTOP)
        many = [asyncio.create_task(pool.pictures.upscale(task, b"no picture", lambda size: None)) for _ in range(40)]
        await until(lambda: any(request.done() for request in many))
        assert pool.pictures.waiting == 16
        os.kill(stuck, signal.SIGCONT)
        codes = [await code_of(request) for request in many]
        assert codes == ["unsupported_type"] * 17 + ["busy"] * 23


async def test_without_an_engine_a_picture_is_refused_clearly() -> None:
    async with workers() as pool:
        started = time.monotonic()
        task = PictureTask("bicubic-x2-rgb", 2, "PNG", 95, 1 << 20, 1 << 28)
        request = asyncio.create_task(pool.pictures.upscale(task, encoded(ramp(9, 9), "PNG"), lambda size: None))
        assert await code_of(request) == "engine_unavailable"
        assert time.monotonic() - started > 2  # it was given the time to come back
