"""Live frames: in by one iterator, out by another, over as many connections as it takes.

    frames -> _feed -> ledger -> _send -> service -> _receive -> answers -> whoever iterates

At most `in_flight` frames are between the two ends, so everything here is bounded, and the socket is always read.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from fourfold_client._http import delay_seconds
from fourfold_client._ledger import END, HEADER_BYTES, KEYFRAME, Header, Ledger
from fourfold_client._source import pulled
from fourfold_client.errors import ConnectionLostError, FourfoldError, error_of
from fourfold_client.events import Dropped, Event, FrameFailed, ModelChanged, Ready, Reconnecting, Statistics, UpscaledFrame
from fourfold_client.types import FrameFormat

Frames = AsyncIterable[Any] | Iterable[Any]
OnEvent = Callable[[Event], None]

H264_FRAMES = 32
"""Frames of H.264 under way, at least: a decoder may want 16 before it gives the first."""

PASSING = ("restart", "busy", "slow_consumer", "engine_unavailable", "gpu_oom", "crashed")
"""Ends of a session after which a new one makes sense."""


class Socket(Protocol):
    """See `fourfold_client._socket`."""

    async def send(self, message: bytes) -> bool: ...
    async def receive(self) -> bytes | dict[str, Any]: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Options:
    """See `AsyncClient.stream`."""

    input: FrameFormat
    output: FrameFormat
    width: int | None
    height: int | None
    model: str | None
    scale: int
    fps: float
    quality: int
    late: Literal["drop", "keep"]
    in_flight: int
    reconnect_seconds: float

    def __post_init__(self) -> None:
        """Raises: ValueError: nothing could ever be under way."""
        if self.in_flight < 1:
            raise ValueError(f"in_flight is {self.in_flight}; at least 1 frame has to be under way")

    @property
    def window(self) -> int:
        """Frames under way, at most."""
        return max(self.in_flight, H264_FRAMES) if self.input == "h264" else self.in_flight

    def start(self) -> dict[str, Any]:
        """The first message of a session."""
        size = {"width": self.width, "height": self.height} if self.width is not None or self.height is not None else {}
        return {
            "type": "start",
            "model": self.model,
            "scale": self.scale,
            "fps": self.fps,
            "input": {"format": self.input, **size},
            "output": {"format": self.output, "quality": self.quality},
            "late": self.late,
        }


class Stream:
    """Answers, as an async iterator. Leave it by `async with`, or call `aclose`, where it is not read to its end."""

    def __init__(
        self,
        connect: Callable[[dict[str, Any]], Awaitable[Socket]],
        frames: Frames,
        options: Options,
        on_event: OnEvent | None = None,
    ) -> None:
        self._connect, self._frames, self._options = connect, frames, options
        self._tell = on_event or (lambda event: None)
        self._ledger = Ledger(options.fps, options.input == "h264")
        self._window = asyncio.Semaphore(options.window)
        self._answers: asyncio.Queue[UpscaledFrame | None] = asyncio.Queue()  # bounded by the window; None: there are no more
        self._more = asyncio.Event()  # there is something to send
        self._ready: Ready | None = None  # the latest
        self._moving = False  # a frame was settled since the last failure
        self._task: asyncio.Task[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> UpscaledFrame:
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self._ended)
        answer = await self._answers.get()
        if answer is None:
            self._answers.put_nowait(None)  # for whoever asks again
            if not self._task.cancelled() and (error := self._task.exception()):
                raise error
            raise StopAsyncIteration
        if not answer.repeated:
            self._window.release()
        return answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the session, whatever is under way."""
        if self._task is None:
            self._task = asyncio.create_task(asyncio.sleep(0))
            self._task.add_done_callback(self._ended)
        self._task.cancel()
        await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # is looked at here, so that asyncio does not complain where nobody reads to the end
        self._answers.put_nowait(None)

    async def _run(self) -> None:
        """Raises: FourfoldError: why it cannot go on; or what came out of `frames` or `on_event`."""
        async with _together(self._feed()):
            await self._stay_connected()

    async def _feed(self) -> None:
        """Takes frames, one for each place in the window."""
        async with aclosing(pulled(self._frames)) as frames:
            await self._window.acquire()
            async for frame in frames:
                number, useful = self._ledger.take(frame)
                if not useful:
                    self._lose((number,), "no_keyframe")
                self._more.set()
                await self._window.acquire()
        self._ledger.complete = True
        self._more.set()

    async def _stay_connected(self) -> None:
        attempt, failing_since = 0, 0.0
        while True:
            try:
                await self._converse()
                return
            except FourfoldError as error:
                if self._ledger.complete and not self._ledger.open:
                    return  # only the goodbye was lost
                if not self._may_resume(error):
                    raise
                if self._moving or not attempt:
                    attempt, failing_since, self._moving = 0, time.monotonic(), False
                delay = delay_seconds(attempt, error.retry_after)
                if time.monotonic() + delay - failing_since > self._options.reconnect_seconds:
                    raise self._gave_up(error, attempt) from error
                attempt += 1
                self._tell(Reconnecting(error, attempt, delay))
            await asyncio.sleep(delay)

    def _may_resume(self, error: FourfoldError) -> bool:
        """Raises: ConnectionLostError: it would make sense, but is not possible."""
        passing = isinstance(error, ConnectionLostError) or error.code in PASSING or error.retry_after is not None
        if self._ready is None or not passing:
            return False
        if self._options.late == "keep" and not self._ledger.can_resume:
            text = "the connection was lost too long after the last keyframe to go on without a gap; send keyframes more often"
            raise ConnectionLostError(text, code="lost") from error
        return True

    def _gave_up(self, error: FourfoldError, attempts: int) -> ConnectionLostError:
        seconds = self._options.reconnect_seconds
        text = f"the stream got no answer for {seconds:g} s, in {attempts} new connections; the last one: {error}"
        return ConnectionLostError(text, code="lost", request_id=error.request_id)

    async def _converse(self) -> None:
        """One connection, up to the end of all frames."""
        socket = await self._connect(self._options.start())
        try:
            resumed = self._ready is not None
            while not isinstance(words := await socket.receive(), dict) or not self._hear(words):
                pass
            if resumed and self._options.late == "drop":
                self._lose(self._ledger.lose(), "connection")
            async with _together(self._send(socket)):
                while not (isinstance(message := await socket.receive(), bytes) and self._take(message)):
                    if isinstance(message, dict):
                        self._hear(message)
        finally:
            await socket.aclose()

    async def _send(self, socket: Socket) -> None:
        """Everything that is not answered, then what comes; then the end."""
        last = -1
        while True:
            self._more.clear()
            for number, message in self._ledger.after(last):
                if not await socket.send(message):
                    return
                last = number
            if not self._more.is_set():
                if self._ledger.complete:
                    await socket.send(self._ledger.end())
                    return
                await self._more.wait()

    def _take(self, message: bytes) -> bool:
        """A frame that came; whether it was the end.

        Raises:
            ConnectionLostError: the end came too early.
        """
        header, ready = Header.of(message), self._ready
        assert ready
        if header.flags & END:
            if self._ledger.open or not self._ledger.complete:
                raise ConnectionLostError("the service ended the session before all frames were answered", code="lost")
            return True
        first = self._settled(header.sequence)
        if first or self._options.output == "h264":
            about = (ready.format, ready.width, ready.height, header.pts_us, bool(header.flags & KEYFRAME), header.server_us)
            self._answers.put_nowait(UpscaledFrame(header.sequence, message[HEADER_BYTES:], *about, repeated=not first))
        return False

    def _hear(self, words: dict[str, Any]) -> bool:
        """Words that came; whether they say that frames may be sent."""
        match words.pop("type"):
            case "ready":
                self._ready = Ready.parsed(words | words["output"])
                self._tell(self._ready)
                return True
            case "dropped":
                self._lose([number for number in words["sequence"] if self._settled(number)], words["reason"])
            case "error":
                number = words["sequence"]
                if self._settled(number):
                    self._window.release()
                    self._tell(FrameFailed(number, error_of(words["code"], words["message"])))
            case "model":
                self._tell(ModelChanged(words["model"], words["reason"]))
            case "stats":
                self._tell(Statistics.parsed(words))
        return False

    def _settled(self, number: int) -> bool:
        """Notes that a frame is answered, or will not be; False if that was known before a connection was lost."""
        news = self._ledger.settle(number)
        self._moving = self._moving or news
        return news

    def _lose(self, numbers: Iterable[int], reason: Any) -> None:
        """Reports frames that will not be answered, and gives their places to others."""
        if numbers := tuple(numbers):
            for _ in numbers:
                self._window.release()
            self._tell(Dropped(numbers, reason))


@asynccontextmanager
async def _together(work: Any) -> AsyncIterator[None]:
    """Has `work` done beside the block, and not longer; an error of one ends both."""
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work)
            yield
            task.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
