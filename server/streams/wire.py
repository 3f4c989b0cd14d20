"""Messages between the api process and its workers: u32 length (little-endian), u8 kind, payload, over a socketpair.

Two ends of one wire: `AsyncChannel` for the api's event loop, `Channel` for a worker's threads. Knows nothing of what is said.
"""

import asyncio
import json
import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from enum import IntEnum
from typing import Any, Self, cast

from models.errors import FourfoldError

MAX_MESSAGE_BYTES = 256 << 20
"""Of one payload: the largest raw picture that is made here has 8192x8192 pixels of three bytes."""

_HEADER = struct.Struct("<IB")

_READ_AHEAD_BYTES = 1 << 18
"""What an AsyncChannel takes in before somebody asks for it; then its worker has to wait."""


class WireError(FourfoldError):
    """The other side does not keep to the protocol, or a message is too long for it."""


class Kind(IntEnum):
    """What a payload is."""

    JSON = 0  # an object in UTF-8
    FRAME = 1  # bytes


_KINDS = frozenset(Kind)


class Channel:
    """The worker's end: blocking; several threads may send, one receives."""

    def __init__(self, sock: socket.socket) -> None:
        """Args: sock: one end of a socketpair, blocking; closed by `close`."""
        self._socket = sock
        self._sending = threading.Lock()

    def send_json(self, value: dict[str, Any]) -> None:
        """Sends an object; waits until the other side has room.

        Raises:
            OSError: the other side is gone.
            WireError: the message is too long.
        """
        self._send(Kind.JSON, memoryview(json.dumps(value).encode()))

    def send_frame(self, *parts: bytes | memoryview) -> None:
        """Sends contiguous buffers as one message, without joining them; see `send_json`."""
        self._send(Kind.FRAME, *(memoryview(part).cast("B") for part in parts))

    def receive(self) -> tuple[Kind, memoryview] | None:
        """The next message, in memory that belongs to the caller. None: the other side is gone."""
        header = self._receive_exactly(_HEADER.size)
        if header is None:
            return None
        length, kind = _parsed(header)
        payload = self._receive_exactly(length)
        return None if payload is None else (kind, payload)

    def shut(self) -> None:
        """Nothing more will be sent; the other side sees that, and may still answer."""
        with suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def _send(self, kind: Kind, *parts: memoryview) -> None:
        waiting = [memoryview(_header(kind, parts)), *(part for part in parts if part.nbytes)]
        with self._sending:
            while waiting:
                sent = self._socket.sendmsg(waiting)
                while waiting and sent >= waiting[0].nbytes:
                    sent -= waiting.pop(0).nbytes
                if sent:
                    waiting[0] = waiting[0][sent:]

    def _receive_exactly(self, length: int) -> memoryview | None:
        buffer = memoryview(bytearray(length))
        filled = 0
        while filled < length:
            try:
                received = self._socket.recv_into(buffer[filled:])
            except ConnectionResetError:
                return None
            if not received:
                return None
            filled += received
        return buffer


class AsyncChannel:
    """The api's end: on the event loop; several tasks may send, one receives."""

    def __init__(self, protocol: "_Protocol") -> None:
        self._protocol = protocol

    @classmethod
    async def open(cls, sock: socket.socket) -> Self:
        """A channel over one end of a socketpair, which then belongs to it."""
        _, protocol = await asyncio.get_running_loop().create_unix_connection(_Protocol, sock=sock)
        return cls(protocol)

    async def send_json(self, value: dict[str, Any]) -> None:
        """Sends an object; waits while the worker is behind.

        Raises:
            ConnectionError: the worker is gone.
            WireError: the message is too long.
        """
        await self._protocol.send(Kind.JSON, memoryview(json.dumps(value).encode()))

    async def send_frame(self, *parts: bytes | memoryview) -> None:
        """Sends buffers as one message; see `send_json`. They must not be changed any more."""
        await self._protocol.send(Kind.FRAME, *(memoryview(part).cast("B") for part in parts))

    async def receive(self) -> tuple[Kind, bytes] | None:
        """The next message. None: the worker is gone.

        Raises:
            WireError: what came is no message.
        """
        return await self._protocol.receive()

    async def aclose(self) -> None:
        """Hangs up; what was not sent by now is lost. The worker sees the end of its channel."""
        await self._protocol.aclose()


class _Protocol(asyncio.BufferedProtocol):
    """The api's end as the event loop sees it.

    A payload is read right into memory of its size. A StreamReader would copy it several times, and at the frame rates of video
    that is most of what a stream costs the api process.
    """

    def __init__(self) -> None:
        self._header = bytearray(_HEADER.size)
        self._kind: Kind | None = None  # of the payload that is being read; None: a header is
        self._unread = memoryview(self._header)  # of either
        self._payload = bytearray()
        self._messages: deque[tuple[Kind, bytearray]] = deque()
        self._ahead_bytes = 0  # of these messages
        self._error: WireError | None = None
        self._news, self._writable, self._lost = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._writable.set()

    async def send(self, kind: Kind, *parts: memoryview) -> None:
        header = memoryview(_header(kind, parts))
        self._check_open()
        for part in (header, *parts):  # not writelines: before Python 3.12.9 nothing holds that back (CVE-2024-12254)
            self._transport.write(part)
        await self._writable.wait()
        self._check_open()

    async def receive(self) -> tuple[Kind, bytes] | None:
        while not self._messages:
            if self._error:
                raise self._error
            if self._lost.is_set():
                return None
            self._news.clear()
            await self._news.wait()
        kind, payload = self._messages.popleft()
        self._ahead_bytes -= len(payload)
        if self._ahead_bytes < _READ_AHEAD_BYTES:
            self._transport.resume_reading()
        return kind, bytes(payload)

    async def aclose(self) -> None:
        self._transport.abort()
        await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._unread

    def buffer_updated(self, nbytes: int) -> None:
        self._unread = self._unread[nbytes:]
        if self._unread:
            return
        if self._kind is None:
            self._begin_payload()
        if self._kind is not None and not self._unread:
            self._end_payload()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        for event in (self._lost, self._writable, self._news):
            event.set()

    def _check_open(self) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the worker is gone")

    def _begin_payload(self) -> None:
        try:
            length, self._kind = _parsed(self._header)
        except WireError as error:
            self._error = error
            self._transport.abort()
            self._unread = memoryview(self._header)
        else:
            self._payload = bytearray(length)
            self._unread = memoryview(self._payload)

    def _end_payload(self) -> None:
        assert self._kind is not None
        self._messages.append((self._kind, self._payload))
        self._kind, self._unread = None, memoryview(self._header)
        self._ahead_bytes += len(self._payload)
        if self._ahead_bytes >= _READ_AHEAD_BYTES:
            self._transport.pause_reading()
        self._news.set()


def _header(kind: Kind, parts: tuple[memoryview, ...]) -> bytes:
    length = sum(part.nbytes for part in parts)
    if length > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {length} bytes is longer than {MAX_MESSAGE_BYTES}")
    return _HEADER.pack(length, kind)


def _parsed(header: bytearray | memoryview) -> tuple[int, Kind]:
    length, kind = _HEADER.unpack(header)
    if length > MAX_MESSAGE_BYTES or kind not in _KINDS:
        raise WireError(f"a message of kind {kind} and {length} bytes is none of ours")
    return length, Kind(kind)
