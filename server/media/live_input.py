"""Pictures as a live client sends them, one in each message: JPEG, PNG, raw or H.264. They end in the slots of an engine.

Parses what strangers send, and looks at a picture's size before it takes memory for it. Knows nothing of sockets or engines.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import av
import numpy as np
import simplejpeg
from av.codec import CodecContext
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from engines.runner import Planes, plane_shapes
from models.colour import Colour
from models.registry import Form
from server.media import _tags
from server.media._planes import copy_planes, planes_of
from server.media.errors import DimensionsError, HdrError, UnreadableError, UnsupportedError
from server.media.live_formats import Format
from server.pictures import read_picture

MIN_SIDE = 16
"""Input pixels each way: encoders and networks do little good below."""

_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">II")


@dataclass(frozen=True)
class Shape:
    """What an engine is opened for, and what an output is planned for."""

    form: Form
    width: int  # input pixels
    height: int
    tags: _tags.Tags | None = None  # yuv420 only

    @property
    def colour(self) -> Colour | None:
        return None if self.tags is None else self.tags.colour()


@dataclass(frozen=True)
class FrameLimits:
    """How large a frame may be."""

    scale: int
    pixels: int  # of the input
    output_pixels: int

    def check(self, width: int, height: int) -> None:
        """Raises: DimensionsError: a picture of this size is not upscaled."""
        if min(width, height) < MIN_SIDE:
            raise DimensionsError(f"the picture is {width}x{height}; at least {MIN_SIDE} pixels are needed each way")
        if width * height > self.pixels:
            raise DimensionsError(f"the picture is {width}x{height}; at most {self.pixels} pixels are upscaled; scale it down")
        if width * height * self.scale**2 > self.output_pixels:
            size = f"{width * self.scale}x{height * self.scale}"
            raise DimensionsError(
                f"the result would be {size}; at most {self.output_pixels} pixels are made; take a smaller scale"
            )


class Picture(Protocol):
    """A picture whose size is known and allowed."""

    @property
    def shape(self) -> Shape: ...

    def fill(self, inputs: Planes) -> None:
        """Decodes into planes of its shape.

        Raises:
            UnreadableError, ServiceError: it is damaged.
        """
        ...


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


def hush() -> None:
    """Keeps FFmpeg from writing to stderr what it thinks of every frame that a stranger sends."""
    av.logging.set_libav_level(av.logging.PANIC)


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


class Decoded:
    """A picture of a video stream, in the decoder's memory."""

    def __init__(self, frame: VideoFrame, tags: _tags.Tags) -> None:
        self._frame = _to_420(frame, tags)
        self.shape = Shape("yuv420", frame.width, frame.height, tags)

    def fill(self, inputs: Planes) -> None:
        copy_planes(planes_of(self._frame), inputs)


class _H264:
    """Access units in Annex B, each in a message of its own. A decoder without delay, in the caller's thread."""

    def __init__(self, limits: FrameLimits) -> None:
        context = CodecContext.create("h264", "r")
        assert isinstance(context, VideoCodecContext)
        self._context, self._limits, self._last = context, limits, -1
        context.thread_type, context.thread_count = "NONE", 1
        context.flags |= Flags.low_delay
        context.options = {"max_pixels": str(limits.pixels)}

    def decode(self, number: int, payload: memoryview) -> list[tuple[int, Picture]]:
        packet: Packet[Any] = Packet(bytes(payload))
        packet.pts = number
        return self._decode(packet)

    def flush(self) -> list[tuple[int, Picture]]:
        return self._decode(None)

    def _decode(self, packet: "Packet[Any] | None") -> list[tuple[int, Picture]]:
        try:
            return [self._checked(frame) for frame in self._context.decode(packet)]
        except av.FFmpegError as error:
            limits_kept(self._context, self._limits)
            raise UnreadableError("the access unit cannot be decoded; go on with a keyframe") from error

    def _checked(self, frame: VideoFrame) -> tuple[int, Picture]:
        self._limits.check(frame.width, frame.height)
        if frame.pts is None or frame.pts <= self._last:
            raise UnsupportedError(
                "the stream has B-frames; encode without (x264: tune=zerolatency; WebCodecs: latencyMode realtime)"
            )
        if frame.interlaced_frame:
            raise UnsupportedError("the stream is interlaced; deinterlace it first")
        tags = checked_tags(frame)
        self._last = frame.pts
        return frame.pts, Decoded(frame, tags)


def limits_kept(context: VideoCodecContext, limits: FrameLimits) -> None:
    """To be asked when a decoder failed: FFmpeg refuses to take memory for a large picture; its size is known nevertheless.

    Raises:
        DimensionsError: so it was.
    """
    if context.width * context.height > limits.pixels:
        limits.check(context.width, context.height)


def checked_tags(frame: VideoFrame) -> _tags.Tags:
    """What a picture's colours mean. Raises: HdrError: nothing that is upscaled."""
    if name := _tags.HDR_TRANSFERS.get(frame.color_trc):
        raise HdrError(f"the stream is HDR ({name}), the networks know only SDR; tone-map it to BT.709 first")
    raw = _tags.Tags(int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc), int(frame.color_range))
    return _tags.resolve(raw, frame.height, frame.format.name.startswith("yuvj"))


def _to_420(frame: VideoFrame, tags: _tags.Tags) -> VideoFrame:
    if frame.format.name in ("yuv420p", "yuvj420p"):
        return frame
    return frame.reformat(format="yuv420p", src_color_range=tags.color_range, dst_color_range=tags.color_range)
