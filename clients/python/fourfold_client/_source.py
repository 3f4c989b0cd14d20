"""Where a stream's frames come from: an async iterable, or a plain one, which is read in a thread of its own.

One frame is taken at a time, when it is asked for: whoever makes frames is held back as far as the stream is.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

_END = object()


async def pulled(frames: AsyncIterable[Any] | Iterable[Any]) -> AsyncGenerator[Any, None]:
    """The frames, one by one."""
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
        return
    puller = _Puller(frames)
    try:
        while (frame := await puller.next()) is not _END:
            yield frame
    finally:
        puller.stop()


class _Puller:
    """Reads an iterable in a thread. It may block there for ever: the thread ends with the program."""

    def __init__(self, frames: Iterable[Any]) -> None:
        self._frames, self._loop = frames, asyncio.get_running_loop()
        self._wanted: SimpleQueue[asyncio.Future[Any] | None] = SimpleQueue()
        Thread(target=self._work, name="fourfold-frames", daemon=True).start()

    async def next(self) -> Any:
        """The next frame, or _END."""
        future = self._loop.create_future()
        self._wanted.put(future)
        return await future

    def stop(self) -> None:
        """Nothing more is wanted."""
        self._wanted.put(None)

    def _work(self) -> None:
        iterator = _each(self._frames)
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            while (future := self._wanted.get()) is not None:
                item, error = _next(iterator)
                self._loop.call_soon_threadsafe(_resolve, future, item, error)


def _each(frames: Iterable[Any]) -> Iterator[Any]:
    """What `iter(frames)` raises comes at the first frame."""
    yield from frames


def _next(iterator: Any) -> tuple[Any, Exception | None]:
    try:
        return next(iterator, _END), None
    except Exception as error:  # whatever it is, it belongs to who reads the stream
        return None, error


def _resolve(future: "asyncio.Future[Any]", item: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(item)
