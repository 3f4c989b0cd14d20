"""Which frames are under way, and what has to be sent again when a connection is lost. Knows nothing of sockets.

Frames are numbered once, for all connections of a stream. Pictures stand alone: only what is not answered is sent again. H.264
frames need those before them, back to a keyframe: they are kept as long as a frame that builds on them is not answered.
"""

import re
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any, Self

from fourfold_client.events import InputFrame

KEYFRAME, END = 1, 2
"""The bits of `Header.flags`."""

HISTORY_BYTES = 64 << 20
"""Of H.264 frames that are kept because of others."""

_HEADER = struct.Struct("<IIqII")
HEADER_BYTES = _HEADER.size
_NAL = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
_SLICE, _IDR = 1, 5


@dataclass(frozen=True)
class Header:
    """The first 24 bytes of a binary message, both ways."""

    sequence: int
    flags: int
    pts_us: int
    server_us: int = 0

    @classmethod
    def of(cls, message: bytes) -> Self:
        return cls(*_HEADER.unpack_from(message)[:4])

    def pack(self) -> bytes:
        return _HEADER.pack(self.sequence, self.flags, self.pts_us, self.server_us, 0)


class Ledger:
    """The frames of one stream."""

    def __init__(self, fps: float, h264: bool) -> None:
        """Args:
        fps: gives frames their time that do not say it.
        h264: frames build on one another.
        """
        self._fps, self._h264 = fps, h264
        self._messages: dict[int, bytes] = {}  # that a new connection would have to get, by number
        self._keyframes: deque[int] = deque()  # of these
        self._bytes = 0  # of these
        self._needs_keyframe = h264
        self._torn = False  # frames that others build on were forgotten
        self._next = 0
        self.open: dict[int, None] = {}  # numbers of frames that are neither answered nor given up
        self.complete = False  # there will be no more frames

    def take(self, frame: Any) -> tuple[int, bool]:
        """Adds a frame; gives its number, and whether it is to be sent: without a keyframe before it, it is of no use."""
        given = frame if isinstance(frame, InputFrame) else InputFrame(frame)
        number, pts_us = self._next, given.pts_us
        self._next += 1
        view = memoryview(given.data)
        payload = view if view.c_contiguous else view.tobytes()
        keyframe = given.keyframe or (self._h264 and _holds_keyframe(payload))
        if self._needs_keyframe and not keyframe:
            return number, False
        header = Header(number, KEYFRAME if keyframe else 0, round(number * 1e6 / self._fps) if pts_us is None else pts_us)
        self._add(number, b"".join((header.pack(), payload)), keyframe)
        return number, True

    def end(self) -> bytes:
        """The message after the last frame."""
        return Header(self._next, END, 0).pack()

    def after(self, number: int) -> list[tuple[int, bytes]]:
        """The frames to be sent behind this one, each with its number."""
        return [item for item in self._messages.items() if item[0] > number]

    def settle(self, number: int) -> bool:
        """A frame was answered, or will not be. False: that was known."""
        if number not in self.open:
            return False
        del self.open[number]
        if self._h264:
            self._forget_before_keyframe()
        else:
            del self._messages[number]
        return True

    def lose(self) -> list[int]:
        """Gives up all frames that are under way."""
        lost = list(self.open)
        for kept in (self.open, self._messages, self._keyframes):
            kept.clear()
        self._bytes, self._needs_keyframe = 0, self._h264
        return lost

    @property
    def can_resume(self) -> bool:
        """Everything that a new connection has to get is still here."""
        return not self._torn

    def _add(self, number: int, message: bytes, keyframe: bool) -> None:
        self._needs_keyframe = False
        self.open[number], self._messages[number] = None, message
        if not self._h264:
            return
        self._bytes += len(message)
        if keyframe:
            self._keyframes.append(number)
            self._forget_before_keyframe()
        while self._bytes > HISTORY_BYTES and (oldest := next(iter(self._messages))) not in self.open:
            self._torn = True
            self._bytes -= len(self._messages.pop(oldest))

    def _forget_before_keyframe(self) -> None:
        """Forgets what no frame under way builds on."""
        first = next(iter(self.open), self._next)
        if len(self._keyframes) < 2 or self._keyframes[1] > first:
            return
        while len(self._keyframes) > 1 and self._keyframes[1] <= first:
            self._keyframes.popleft()
        for number in [number for number in self._messages if number < self._keyframes[0]]:
            self._bytes -= len(self._messages.pop(number))
        self._torn = False


def _holds_keyframe(unit: bytes | memoryview) -> bool:
    """Whether an Annex B access unit is an IDR picture: its first slice says so."""
    kinds = (found[1][0] & 0x1F for found in _NAL.finditer(unit))
    return next((kind == _IDR for kind in kinds if kind in (_SLICE, _IDR)), False)
