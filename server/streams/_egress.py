"""A relay's way to its target: a process that publishes, watched and replaced, and what waits for it.

What waits is bounded. When the target is slow, everything up to the next keyframe goes; when it is stuck or gone, the process
is ended and another one connects. Knows nothing of how pictures are made; see `server.streams.egress` for the process.
"""

import json
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from engines.logs import about
from server.media import flv
from server.streams._children import module_command
from server.streams.relay_protocol import Endpoint, SourceReason
from server.streams.wire import Channel

WINDOW = 8
"""Tags that the process may have, and not have sent: what it has cannot be taken back."""

BACKLOG_MS = 1000
"""Of pictures that may wait, before everything up to the next keyframe goes."""

BACKOFF_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
STEADY_SECONDS = 10.0
"""That a connection has to last, for the next one to be tried without delay."""

FAREWELL_SECONDS = 2.0
"""For what waits at the end, and for the goodbye."""


@dataclass(frozen=True)
class About:
    """What servers are told of the pictures."""

    width: int
    height: int
    fps: float


@dataclass(frozen=True)
class VideoTag:
    """A picture that is to be sent."""

    pts_ms: int
    keyframe: bool
    data: bytes
    configuration: bytes  # that it is decoded with
    about: About
    sent: Callable[[], None]
    lost: Callable[[], None]


@dataclass(frozen=True)
class SoundTag:
    """Some sound that is to be sent."""

    pts_ms: int
    payload: bytes
    configuration: bytes | None


Item = VideoTag | SoundTag


class Egress:
    """Publishes at one target. One thread calls it."""

    def __init__(self, target: Endpoint, timeout_seconds: float, on_reconnect: Callable[[SourceReason], None]) -> None:
        """Args:
        target: see there.
        timeout_seconds: that it may take to connect, or for one tag.
        on_reconnect: called with the reason when a connection is over, or could not be made.
        """
        self._target, self._timeout, self._on_reconnect = target, timeout_seconds, on_reconnect
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._wanted = self._connected = self._closing = False
        self._starved = True  # nothing can be sent before a keyframe
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="egress", daemon=True)

    def start(self) -> None:
        """Starts the process, so that it is warm when there is something to publish."""
        self._thread.start()

    def connect(self) -> None:
        """There will be something to publish; does nothing when it was called before."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    @property
    def connected(self) -> bool:
        """Whether pictures are taken now."""
        return self._connected

    @property
    def wants_keyframe(self) -> bool:
        """Nothing but a keyframe is of use."""
        return self._starved

    def put(self, item: Item) -> None:
        """Takes what is to be sent; calls `sent` or `lost` of each picture, from another thread."""
        with self._changed:
            if not self._takes(item):
                lost = [item]
            else:
                self._items.append(item)
                lost = self._too_late()
            self._changed.notify_all()
        _tell_lost(lost)

    def close(self) -> None:
        """Sends what waits, says goodbye and ends."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._ended.set()
        self._thread.join(2 * FAREWELL_SECONDS + self._timeout)

    def _takes(self, item: Item) -> bool:
        if not self._connected:
            return False
        if isinstance(item, VideoTag) and item.keyframe:
            self._starved = False
        return not self._starved

    def _too_late(self) -> list[Item]:
        """What waits, if it is too much; then a keyframe is needed."""
        first = next((item for item in self._items if isinstance(item, VideoTag)), None)
        if first is None or self._items[-1].pts_ms - first.pts_ms <= BACKLOG_MS:
            return []
        return self._emptied()

    def _emptied(self) -> list[Item]:
        lost = list(self._items)
        self._items.clear()
        self._starved = True
        return lost

    def _run(self) -> None:
        failures = 0
        while not self._closing:
            started, reason = time.monotonic(), self._live()
            if self._closing:
                return
            self._on_reconnect(reason)
            failures = 0 if time.monotonic() - started > STEADY_SECONDS else failures + 1
            if failures:
                self._ended.wait(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1])

    def _live(self) -> SourceReason:
        """One connection, from its start to its end; why it ended."""
        reason: SourceReason = "target_down"
        try:
            connection = _Connection(self._target, self._timeout)
        except OSError:  # there is no room for a process
            return reason
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closing)
            if self._wanted:
                connection.send(flv.file_header(), None)  # this connects
            while not self._closing and connection.unsent:
                connection.check()
                connection.wait(0.05)
            with self._changed:
                self._connected = not self._closing
            self._serve(connection)
        except TimeoutError:
            reason = "target_slow" if self._connected else "target_down"
        except OSError:
            pass
        finally:
            with self._changed:
                self._connected = False
                lost = self._emptied()
            _tell_lost([*connection.close(), *lost])
        return reason

    def _serve(self, connection: "_Connection") -> None:
        """Sends what comes, and what is left when it is to close.

        Raises:
            TimeoutError: the target does not take it; OSError: it is gone.
        """
        until = float("inf")
        while time.monotonic() < until:
            connection.check()
            with self._changed:
                if self._closing:
                    until = min(until, time.monotonic() + FAREWELL_SECONDS)
                    if not self._items and not connection.unsent:
                        return
                self._changed.wait_for(lambda: self._items and len(connection.unsent) < WINDOW, 0.02 if self._closing else 0.05)
                item = self._items.popleft() if self._items and len(connection.unsent) < WINDOW else None
            if item:
                connection.send_item(item)


class _Connection:
    """One process of `server.streams.egress`, and what it was given and has not sent."""

    def __init__(self, target: Endpoint, timeout_seconds: float) -> None:
        """Starts the process. Raises: OSError: there is no room for one."""
        self._timeout = timeout_seconds
        self.unsent: deque[tuple[float, Item | None]] = deque()
        self._about: About | None = None
        self._configuration: bytes | None = None
        self._sound_configuration: bytes | None = None
        self._acknowledged = threading.Event()
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", max(1, round(timeout_seconds)), 0))
        command, environment = module_command("server.streams.egress", str(theirs.fileno()), json.dumps(about()))
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment
            )
        self._channel = Channel(ours)
        self._channel.send_json({"url": target.url, "address": target.address})
        self._reader = threading.Thread(target=self._read, name="egress-answers", daemon=True)
        self._gone = False
        self._reader.start()

    def send_item(self, item: Item) -> None:
        """Sends a picture or some sound, and before it what is to be known of it, if that is new. Raises: as `send`."""
        if isinstance(item, VideoTag):
            if item.about != self._about:
                self._about = item.about
                self.send(flv.metadata(item.about.width, item.about.height, item.about.fps, sound=True), None)
            if item.configuration != self._configuration:
                self._configuration = item.configuration
                self.send(flv.picture_configuration(item.pts_ms, item.configuration), None)
            self.send(flv.picture(item.pts_ms, item.keyframe, item.data), item)
            return
        if item.configuration is not None and item.configuration != self._sound_configuration:
            self._sound_configuration = item.configuration
            self.send(flv.tag(flv.TagKind.AUDIO, item.pts_ms, item.configuration), None)
        self.send(flv.tag(flv.TagKind.AUDIO, item.pts_ms, item.payload), item)

    def send(self, data: bytes, item: Item | None) -> None:
        """Gives the process whole tags.

        Raises:
            TimeoutError: it does not take them; OSError: it is gone.
        """
        self.unsent.append((time.monotonic(), item))
        try:
            self._channel.send_frame(data)
        except BlockingIOError as error:
            raise TimeoutError from error

    def check(self) -> None:
        """Raises: TimeoutError: it has not sent for too long; ConnectionError: it is gone."""
        if self._gone:
            raise ConnectionError
        with suppress(IndexError):  # the reader has just taken it out
            if time.monotonic() - self.unsent[0][0] > self._timeout:
                raise TimeoutError

    def wait(self, seconds: float) -> None:
        """Until something was sent, or so long."""
        self._acknowledged.wait(seconds)

    def close(self) -> list[Item]:
        """Ends the process, politely if it listens; what was not sent."""
        self._channel.shut()
        with suppress(subprocess.TimeoutExpired):
            if not self.unsent:
                self._process.wait(FAREWELL_SECONDS)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._channel.close()
        return [item for _, item in self.unsent if item]

    def _read(self) -> None:
        with suppress(OSError):
            while (received := self._channel.receive()) is not None:
                assert "sent" in json.loads(bytes(received[1]))
                _, item = self.unsent.popleft()
                self._acknowledged.set()
                if isinstance(item, VideoTag):
                    item.sent()
        self._gone = True
        self._acknowledged.set()


def _tell_lost(items: list[Item]) -> None:
    for item in items:
        if isinstance(item, VideoTag):
            item.lost()
