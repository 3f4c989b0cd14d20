"""Videos from file to file, and that no job is left at the service however it ends."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import av
import pytest

from fourfold_client import AsyncClient, Client, ConnectionLostError, InvalidInputError, NotFoundError, VideoProgress, _video
from tests.support.clips import write
from tests.support.scripted import Answer, scripted
from tests.support.service import RunningService

JOB = {"id": "1", "state": "done", "progress": 1, "frames": 1, "fps": 1, "model": "m", "scale": 4, "result": {}, "notes": []}


def jobs(service: RunningService) -> list[dict[str, Any]]:
    with urlopen(f"{service.url}/v1/videos", timeout=10) as answer:
        return list(json.loads(answer.read())["videos"])


def wait_until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def size_of(path: Path) -> tuple[int, int, int]:
    """Width, height and frames."""
    with av.open(str(path)) as video:
        frames = list(video.decode(video=0))
    return frames[0].width, frames[0].height, len(frames)


def test_a_video(service: RunningService, tmp_path: Path) -> None:
    seen: list[VideoProgress] = []
    source = write(tmp_path / "small.mp4", tone=True, frames=24)
    with Client(service.url) as client:
        options: dict[str, Any] = {"model": "bicubic", "scale": 4, "encoder": "libx264", "crf": 30, "height": 96}
        video = client.upscale_video(source, str(tmp_path / "large.mp4"), progress=seen.append, **options)
    assert (video.frames, video.model, video.scale, video.result["frames_out"]) == (24, "bicubic", 4, 24)
    assert size_of(tmp_path / "large.mp4") == (144, 96, 24)
    assert [seen[0].phase, seen[-1].phase] == ["uploading", "downloading"]
    assert seen[-1].fraction == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.mp4", "small.mp4"]
    assert jobs(service) == []


@pytest.mark.anyio
@pytest.mark.parametrize("phase", ["uploading", "running"])
async def test_a_cancelled_caller_cancels_the_job(service: RunningService, tmp_path: Path, phase: str) -> None:
    """While uploading, right after the last byte: then a job begins that nobody was told of yet."""
    source = write(tmp_path / "small.mp4", frames=200, width=320, height=180)

    def progress(news: VideoProgress) -> None:
        if news.phase == phase or news.phase == "downloading":
            task.cancel()

    async with AsyncClient(service.url) as client:
        task = asyncio.create_task(client.upscale_video(source, tmp_path / "large.mp4", model="xlsr", progress=progress))
        with pytest.raises(asyncio.CancelledError):
            await task
    assert jobs(service) == []
    assert [path.name for path in tmp_path.iterdir()] == ["small.mp4"]


def test_ctrl_c_cancels_the_job(service: RunningService, tmp_path: Path) -> None:
    source = write(tmp_path / "small.mp4", frames=200, width=320, height=180)
    interrupted = threading.Event()

    def progress(news: VideoProgress) -> None:
        if news.phase != "uploading" and not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)

    with Client(service.url) as client:
        with pytest.raises(KeyboardInterrupt):
            client.upscale_video(source, tmp_path / "large.mp4", model="xlsr", progress=progress)
        assert jobs(service) == []
    assert [path.name for path in tmp_path.iterdir()] == ["small.mp4"]


def test_what_the_callback_raises_at_the_end_of_the_upload_leaves_no_job(tmp_path: Path) -> None:
    """The server must not have been given the last piece: it would make a job of it."""
    source, given = tmp_path / "small.mp4", list[int]()
    source.write_bytes(bytes(3 << 20))

    def progress(news: VideoProgress) -> None:
        if news.fraction == 1:
            raise RuntimeError("enough")

    with socket.create_server(("127.0.0.1", 0)) as server:
        reader = threading.Thread(target=lambda: given.append(read_to_the_end(server)))
        reader.start()
        with Client(f"http://127.0.0.1:{server.getsockname()[1]}") as client, pytest.raises(RuntimeError, match="enough"):
            client.upscale_video(source, tmp_path / "large.mp4", progress=progress)
        reader.join(60)
    assert 0 < given[0] < source.stat().st_size


def read_to_the_end(server: socket.socket) -> int:
    """Bytes of all that a client sends before it hangs up."""
    connection, _ = server.accept()
    with connection:
        return sum(map(len, iter(lambda: connection.recv(1 << 16), b"")))


def test_what_the_callback_raises_ends_the_job(service: RunningService, tmp_path: Path) -> None:
    def progress(news: VideoProgress) -> None:
        if news.phase != "uploading":
            raise RuntimeError("enough")

    with Client(service.url) as client, pytest.raises(RuntimeError, match="enough"):
        client.upscale_video(write(tmp_path / "small.mp4"), tmp_path / "large.mp4", model="bicubic", progress=progress)
    assert jobs(service) == []


def test_a_job_that_somebody_removed(service: RunningService, tmp_path: Path) -> None:
    def progress(news: VideoProgress) -> None:
        for job in jobs(service):
            with urlopen(Request(f"{service.url}/v1/videos/{job['id']}", method="DELETE"), timeout=10):
                pass

    source = write(tmp_path / "small.mp4", frames=200, width=320, height=180)
    with Client(service.url) as client, pytest.raises(NotFoundError):
        client.upscale_video(source, tmp_path / "large.mp4", model="xlsr", progress=progress)


def test_files_that_cannot_be_used(service: RunningService, tmp_path: Path) -> None:
    source = write(tmp_path / "small.mp4")
    with Client(service.url) as client:
        with pytest.raises(FileNotFoundError):
            client.upscale_video(tmp_path / "nothing.mp4", tmp_path / "large.mp4")
        with pytest.raises(FileNotFoundError):
            client.upscale_video(source, tmp_path / "no folder" / "large.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["small.mp4"]
    assert jobs(service) == []


def test_a_job_that_failed(tmp_path: Path) -> None:
    failed = JOB | {"state": "failed", "error": {"code": "unreadable", "message": "cut off"}}
    (tmp_path / "small.mp4").write_bytes(b"video")
    with scripted([Answer(202, JOB), Answer(200, failed), Answer(204, b"")]) as server, Client(server.url) as client:
        with pytest.raises(InvalidInputError, match="cut off"):
            client.upscale_video(tmp_path / "small.mp4", tmp_path / "large.mp4")
        assert [(method, path) for method, path, _ in server.requests][-1] == ("DELETE", "/v1/videos/1")


def test_a_download_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    (tmp_path / "small.mp4").write_bytes(b"video")
    cut = Answer(200, b"first ", {"ETag": '"tag"', "Content-Length": "12"})
    rest = Answer(206, b"second", {"ETag": '"tag"'})
    script = [Answer(202, JOB), Answer(200, JOB), cut, Answer(502, b""), rest, Answer(204, b"")]
    with scripted(script) as server, Client(server.url, retries=0) as client:
        client.upscale_video(tmp_path / "small.mp4", tmp_path / "large.mp4")
        assert [headers.get("Range") for headers in server.headers] == [None, None, None, "bytes=6-", "bytes=6-", None]
    assert (tmp_path / "large.mp4").read_bytes() == b"first second"


def test_the_patience_of_a_download_begins_anew_with_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_video, "AWAY_SECONDS", 0.0)
    (tmp_path / "small.mp4").write_bytes(b"video")
    cut = [Answer(200 + 6 * bool(at), b"piece ", {"ETag": '"tag"', "Content-Length": str(24 - at)}) for at in (0, 6, 12)]
    script = [Answer(202, JOB), Answer(200, JOB), *cut, Answer(502, b""), Answer(502, b""), Answer(204, b"")]
    with scripted(script) as server, Client(server.url, retries=0) as client:
        with pytest.raises(ConnectionLostError):
            client.upscale_video(tmp_path / "small.mp4", tmp_path / "large.mp4")
        assert [headers.get("Range") for headers in server.headers][2:] == [None, "bytes=6-", "bytes=12-", "bytes=18-", None]
