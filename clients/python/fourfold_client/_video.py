"""A video from file to file: upload, wait, download, remove. Nothing of it is ever held in memory."""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from fourfold_client._http import Http, delay_seconds
from fourfold_client.errors import ConnectionLostError, FourfoldError, error_of
from fourfold_client.types import Video, VideoProgress

BLOCK_BYTES = 1 << 20
POLL_SECONDS = 0.5
AWAY_SECONDS = 60.0
"""How long the service may be away while a job waits or its result is fetched: jobs outlive a restart."""
CLEANUP_SECONDS = 10.0

Progress = Callable[[VideoProgress], None]


class VideoTask:
    """One video on its way."""

    def __init__(self, http: Http, source: Path, target: Path, options: dict[str, Any], progress: Progress | None) -> None:
        """Args:
        http: the service.
        source: the file to upscale.
        target: where the result goes, an MP4 file; written at the end, in one step.
        options: of the query.
        progress: called whenever there is news.
        """
        self._http, self._source, self._target, self._options = http, source, target, options
        self._progress = progress or (lambda progress: None)
        self._uploaded = False  # to the last byte: from now on there may be a job

    async def run(self) -> Video:
        """Does it all. However it ends, no job of it is left at the service.

        Raises:
            OSError: a file cannot be read or written.
            FourfoldError: the service says no, the job failed, or the service was away for too long.
        """
        partial = self._target.with_name(f".{self._target.name}.{secrets.token_hex(4)}.partial")
        try:
            with await asyncio.to_thread(partial.open, "xb") as file:
                id = await self._submit()  # noqa: A001
                try:
                    video = await self._wait(id)
                    await self._download(id, file)
                finally:
                    await finish(self._remove(id))
            await asyncio.to_thread(os.replace, partial, self._target)
        finally:
            await finish(asyncio.to_thread(partial.unlink, missing_ok=True))
        return video

    async def _submit(self) -> str:
        """Uploads; gives the job's id. If the caller is cancelled when all was sent, the job that comes of it is removed."""
        with await asyncio.to_thread(self._source.open, "rb") as file:
            posting = asyncio.create_task(self._post(file))
            try:
                return await asyncio.shield(posting)
            except asyncio.CancelledError:
                if not self._uploaded:
                    posting.cancel()
                await finish(self._retract(posting))
                raise

    async def _post(self, file: BinaryIO) -> str:
        size = os.fstat(file.fileno()).st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        job = await self._http.json(
            "POST", "/v1/videos", params=self._options, headers=headers, content=lambda: self._pieces(file, size)
        )
        return str(job["id"])

    async def _pieces(self, file: BinaryIO, size: int) -> AsyncIterator[bytes]:
        file.seek(0)
        sent = 0
        while piece := await asyncio.to_thread(file.read, BLOCK_BYTES):
            sent += len(piece)
            self._progress(VideoProgress("uploading", sent / size))  # before the last piece: what it raises leaves no job
            self._uploaded = sent >= size
            yield piece

    async def _retract(self, posting: "asyncio.Task[str]") -> None:
        with suppress(FourfoldError, asyncio.CancelledError, asyncio.TimeoutError):
            async with asyncio.timeout(CLEANUP_SECONDS):
                await self._remove(await posting)

    async def _wait(self, id: str) -> Video:  # noqa: A002
        """Until the job is done."""
        while True:
            job = await self._patiently(lambda: self._http.json("GET", f"/v1/videos/{id}"))
            match job["state"]:
                case "done":
                    return Video.parsed(job)
                case "failed":
                    raise error_of(job["error"]["code"], job["error"]["message"])
                case "cancelled":
                    raise error_of("cancelled", "somebody cancelled this video")
                case state:
                    self._progress(VideoProgress(state, job["progress"], job["frames"], job["fps"]))
            await asyncio.sleep(POLL_SECONDS)

    async def _download(self, id: str, file: BinaryIO) -> None:  # noqa: A002
        """Fetches the result, going on where a connection was lost."""
        tag = ""

        async def attempt() -> None:
            nonlocal tag
            headers = {"Range": f"bytes={file.tell()}-", "If-Range": tag} if tag and file.tell() else {}
            async with self._http.download(f"/v1/videos/{id}/content", headers) as answer:
                if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                    await asyncio.to_thread(_rewind, file)
                tag = answer.headers.get("etag", "")
                whole = file.tell() + int(answer.headers["content-length"])
                async for piece in answer.aiter_raw():  # as they come: what is here need not come again
                    await asyncio.to_thread(file.write, piece)
                    self._progress(VideoProgress("downloading", file.tell() / whole))

        await self._patiently(attempt, file.tell)

    async def _patiently(self, attempt: Callable[[], Any], position: Callable[[], int] = lambda: 0) -> Any:
        """Does something again until it works, while the service is away for a while.

        Args:
            attempt: what is done.
            position: how far it has come; where it comes further, the service was not away.
        """
        began, number, furthest = time.monotonic(), 0, position()
        while True:
            try:
                return await attempt()
            except ConnectionLostError:
                if position() > furthest:
                    began, number, furthest = time.monotonic(), 0, position()
                elif time.monotonic() - began > AWAY_SECONDS:
                    raise
            await asyncio.sleep(delay_seconds(number))
            number += 1

    async def _remove(self, id: str) -> None:  # noqa: A002
        """Ends the job at the service, as far as it can be reached."""
        with suppress(FourfoldError, TimeoutError):
            async with asyncio.timeout(CLEANUP_SECONDS):
                await self._http.request("DELETE", f"/v1/videos/{id}")


def _rewind(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


async def finish(work: Any) -> None:
    """Brings work to its end even if the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    await asyncio.shield(task)


_unfinished: set["asyncio.Future[None]"] = set()
"""Holds tasks that nobody waits for any more: the event loop alone would forget them."""
