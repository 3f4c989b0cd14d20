"""Pictures as a live client sends them, one in each message: JPEG, PNG, raw or H.264. They end in the slots of an engine.

Parses what strangers send, and looks at a picture's size before it takes memory for it. Knows nothing of sockets or engines.
"""

import io
import struct
from collections.abc import Callable
from typing import Protocol

import numpy as np
import simplejpeg

from engines.runner import Planes, plane_shapes
from server.media import _tags
from server.media.errors import UnreadableError, UnsupportedError
from server.media.live_decoder import LiveDecoder
from server.media.live_formats import Format
from server.media.live_picture import FrameLimits, Picture, Shape
from server.pictures import read_picture

_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">II")


class LiveInput(Protocol):
    """Decodes the messages of one client, in their order."""

    def decode(self, number: int, payload: memoryview) -> list[tuple[int, Picture]]:
        """The pictures that are known after a message, each with the number of the message that it came in, in rising order.

        Raises:
            UnreadableError: this message is damaged; the next one may be decoded.
            UnsupportedError: and so it will go on.
        """
        ...

    def flush(self) -> list[tuple[int, Picture]]:
        """The pictures that were held back."""
        ...


def open_input(name: Format, width: int | None, height: int | None, limits: FrameLimits) -> LiveInput:
    """A decoder.

    Args:
        name: of the format.
        width: in pixels; raw formats need it.
        height: likewise.
        limits: see there; width and height keep to them.
    """
    if name == "h264":
        return _H264(limits)
    if name == "jpeg":
        return _OneByOne(lambda payload: _Jpeg(payload, limits))
    if name == "png":
        return _OneByOne(lambda payload: _Png(payload, limits))
    shape = announced_shape(name, width, height)
    assert shape
    return _OneByOne(lambda payload: _Raw(payload, shape))


def announced_shape(name: Format, width: int | None, height: int | None) -> Shape | None:
    """What an engine can be opened for before the first picture is there; None: that depends on the picture."""
    if name == "h264" or width is None or height is None:
        return None
    return Shape("yuv420", width, height, _tags.assumed(height)) if name == "yuv420p" else Shape("rgb", width, height)


class _OneByOne:
    """A format whose messages stand alone."""

    def __init__(self, read: Callable[[memoryview], Picture]) -> None:
        self._read = read

    def decode(self, number: int, payload: memoryview) -> list[tuple[int, Picture]]:
        return [(number, self._read(payload))]

    def flush(self) -> list[tuple[int, Picture]]:
        return []


class _Jpeg:
    def __init__(self, payload: memoryview, limits: FrameLimits) -> None:
        self._payload = payload
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(payload)
        except ValueError as error:
            raise UnreadableError("the frame is no JPEG picture, or its head is damaged") from error
        limits.check(int(width), int(height))
        self.shape = Shape("rgb", int(width), int(height))

    def fill(self, inputs: Planes) -> None:
        try:
            simplejpeg.decode_jpeg(self._payload, "RGB", buffer=inputs[0])
        except ValueError as error:
            raise UnreadableError("the JPEG picture is damaged or cut off") from error


class _Png:
    def __init__(self, payload: memoryview, limits: FrameLimits) -> None:
        if payload[:8] != _PNG or len(payload) < 24:
            raise UnreadableError("the frame is no PNG picture")
        self._payload = payload
        width, height = _IHDR.unpack_from(payload, 16)
        limits.check(width, height)
        self.shape = Shape("rgb", width, height)

    def fill(self, inputs: Planes) -> None:
        rgb = read_picture(io.BytesIO(self._payload), self.shape.width * self.shape.height).rgb
        if rgb.shape != inputs[0].shape:
            raise UnreadableError("the PNG picture is rotated by its metadata, or contradicts itself; send frames upright")
        np.copyto(inputs[0], rgb)


class _Raw:
    def __init__(self, payload: memoryview, shape: Shape) -> None:
        self._payload, self.shape = payload, shape
        self._planes = plane_shapes(shape.form, shape.height, shape.width)
        expected = sum(int(np.prod(plane)) for plane in self._planes)
        if len(payload) != expected:
            raise UnreadableError(f"the frame has {len(payload)} bytes; {shape.width}x{shape.height} pixels have {expected}")

    def fill(self, inputs: Planes) -> None:
        start = 0
        for plane in inputs:
            np.copyto(plane, np.frombuffer(self._payload, np.uint8, plane.size, start).reshape(plane.shape))
            start += plane.size


class _H264:
    """Access units in Annex B, each in a message of its own."""

    def __init__(self, limits: FrameLimits) -> None:
        self._decoder, self._last = LiveDecoder(None, False, limits), -1

    def decode(self, number: int, payload: memoryview) -> list[tuple[int, Picture]]:
        return self._in_order(self._decoder.decode(number, bytes(payload)))

    def flush(self) -> list[tuple[int, Picture]]:
        return self._in_order(self._decoder.flush())

    def _in_order(self, pictures: list[tuple[int, Picture]]) -> list[tuple[int, Picture]]:
        for number, _ in pictures:
            if number <= self._last:
                raise UnsupportedError(
                    "the stream has B-frames; encode without (x264: tune=zerolatency; WebCodecs: latencyMode realtime)"
                )
            self._last = number
        return pictures
