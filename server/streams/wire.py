"""Messages between the api process and its workers: u32 length (little-endian), u8 kind, payload, over a socketpair.

Two ends of one wire: `AsyncChannel` for the api's event loop, `Channel` for a worker's threads. Knows nothing of what is said.
"""

import asyncio
import json
import socket
import struct
import threading
from contextlib import suppress
from enum import IntEnum
from typing import Any, Self

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

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Self:
        """A channel over one end of a socketpair, which then belongs to it."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=_READ_AHEAD_BYTES))

    async def send_json(self, value: dict[str, Any]) -> None:
        """Sends an object; waits while the worker is behind.

        Raises:
            ConnectionError: the worker is gone.
            WireError: the message is too long.
        """
        await self._send(Kind.JSON, memoryview(json.dumps(value).encode()))

    async def send_frame(self, *parts: bytes | memoryview) -> None:
        """Sends buffers as one message; see `send_json`. They must not be changed any more."""
        await self._send(Kind.FRAME, *(memoryview(part).cast("B") for part in parts))

    async def receive(self) -> tuple[Kind, bytes] | None:
        """The next message. None: the worker is gone.

        Raises:
            WireError: what came is no message.
        """
        try:
            length, kind = _parsed(await self._reader.readexactly(_HEADER.size))
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def aclose(self) -> None:
        """Hangs up; what was not sent by now is lost. The worker sees the end of its channel."""
        self._writer.transport.abort()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _send(self, kind: Kind, *parts: memoryview) -> None:
        # Not writelines: in Python 3.12, before 3.12.9, it knows no high-water mark, and drain would not wait (CVE-2024-12254).
        self._writer.write(_header(kind, parts))
        for part in parts:
            self._writer.write(part)
        await self._writer.drain()


def _header(kind: Kind, parts: tuple[memoryview, ...]) -> bytes:
    length = sum(part.nbytes for part in parts)
    if length > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {length} bytes is longer than {MAX_MESSAGE_BYTES}")
    return _HEADER.pack(length, kind)


def _parsed(header: bytes | memoryview) -> tuple[int, Kind]:
    length, kind = _HEADER.unpack(header)
    if length > MAX_MESSAGE_BYTES or kind not in _KINDS:
        raise WireError(f"a message of kind {kind} and {length} bytes is none of ours")
    return length, Kind(kind)
