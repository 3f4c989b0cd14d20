"""Upscaled pictures as a live client wants them: JPEG, PNG, raw or H.264, one in each message.

Colours: what comes as YUV and leaves as YUV keeps the coefficients that it came with; H.264 says which. What comes as RGB gets
those that players assume: BT.601 below 720 lines of the result, BT.709 from there, both limited. Knows nothing of sockets or
engines.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
import simplejpeg
from av.codec import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from engines.runner import Plane
from models.colour import Matrix
from server.media import _tags
from server.media._planes import frame_of, planes_of
from server.media.errors import DimensionsError, EncoderError
from server.media.live_formats import Format
from server.media.live_picture import Shape

Payload = bytes | memoryview

KEYFRAME_SECONDS = 2
MAX_SIDE = {"jpeg": 65500, "h264": 16384}
"""Pixels of the result each way, where a format has a limit."""
MAX_THREADS = 4
"""Slices of one picture that x264 compresses at once, at most."""

# swscale's fast ways from YUV round down: pictures get darker by a code or two.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

_SWS_MATRICES: dict[Matrix, int] = {"bt601": 5, "bt709": 1, "bt2020": 9}  # swscale's numbers


@dataclass(frozen=True)
class Wanted:
    """What a client asked for."""

    format: Format
    quality: int  # 1 to 100
    fps: float  # that it means to send


class LiveOutput(Protocol):
    """Compresses the pictures of one shape, in their order."""

    def encode(self, picture: Plane, fresh: bool) -> tuple[Payload, bool]:
        """One message.

        Args:
            picture: see `engines.slots.Slot.picture`; raw formats are given back as views of it.
            fresh: something changed, so that it must not be predicted from what was before.

        Returns:
            The payload, and whether it can be decoded without those before it.

        Raises:
            EncoderError: the encoder failed.
        """
        ...


def open_output(wanted: Wanted, shape: Shape, width: int, height: int) -> LiveOutput:
    """An encoder.

    Args:
        wanted: see there.
        shape: of the input.
        width: of the pictures that come, pixels.
        height: likewise.

    Raises:
        DimensionsError: the format cannot hold pictures of that size.
        EncoderError: the encoder does not start.
    """
    if max(width, height) > (limit := MAX_SIDE.get(wanted.format, width + height)):
        raise DimensionsError(f"the result would be {width}x{height}; {wanted.format} has at most {limit} pixels each way")
    if wanted.format == "h264":
        return _H264(wanted, shape, width, height)
    if wanted.format == "yuv420p":
        return _OneByOne(_memory) if shape.form == "yuv420" else _OneByOne(_I420(_tags.assumed(height)))
    compress = {"jpeg": _jpeg(wanted.quality), "png": _png, "rgb24": _memory}[wanted.format]
    return _OneByOne(compress) if shape.tags is None else _OneByOne(_Rgb(shape.tags, compress))


def size_of(name: Format, width: int, height: int) -> tuple[int, int]:
    """Width and height of what is sent for pictures of this size: chroma of an odd last row or column has nowhere to lie."""
    return (width & ~1, height & ~1) if name in ("h264", "yuv420p") else (width, height)


class _OneByOne:
    """A format whose messages stand alone."""

    def __init__(self, compress: Callable[[Plane], Payload]) -> None:
        self._compress = compress

    def encode(self, picture: Plane, fresh: bool) -> tuple[Payload, bool]:
        return self._compress(picture), True


class _Rgb:
    """Converts from YUV first."""

    def __init__(self, tags: _tags.Tags, compress: Callable[[Plane], Payload]) -> None:
        self._tags, self._compress, self._reformatter = tags, compress, VideoReformatter()

    def __call__(self, picture: Plane) -> Payload:
        frame = self._reformatter.reformat(
            frame_of(picture, "yuv420"),
            format="rgb24",
            src_colorspace=_SWS_MATRICES[self._tags.colour().matrix],
            src_color_range=self._tags.color_range,
            interpolation=_EXACT,
            threads=1,
        )
        return self._compress(np.ascontiguousarray(planes_of(frame)[0]))


class _I420:
    """Raw YUV of what is RGB."""

    def __init__(self, tags: _tags.Tags) -> None:
        self._convert = _Yuv(tags)

    def __call__(self, picture: Plane) -> Payload:
        return b"".join(np.ascontiguousarray(plane).data for plane in planes_of(self._convert(picture)))


class _Yuv:
    """YUV frames from RGB pictures; see `size_of`."""

    def __init__(self, tags: _tags.Tags) -> None:
        self._tags, self._reformatter = tags, VideoReformatter()

    def __call__(self, picture: Plane) -> VideoFrame:
        width, height = size_of("yuv420p", picture.shape[1], picture.shape[0])
        return self._reformatter.reformat(
            frame_of(np.ascontiguousarray(picture[:height, :width]), "rgb"),
            format="yuv420p",
            dst_colorspace=_SWS_MATRICES[self._tags.colour().matrix],
            dst_color_range=self._tags.color_range,
            interpolation=_EXACT,
            threads=1,
        )


def _memory(picture: Plane) -> Payload:
    return picture.data.cast("B")


def _jpeg(quality: int) -> Callable[[Plane], Payload]:
    return lambda picture: simplejpeg.encode_jpeg(picture, quality, "RGB", "420")


def _png(picture: Plane) -> Payload:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getbuffer()


class _H264:
    """x264 without delay: Annex B, parameter sets before each keyframe, no B-frames."""

    def __init__(self, wanted: Wanted, shape: Shape, width: int, height: int) -> None:
        self._tags = shape.tags or _tags.assumed(height)
        self._convert = None if shape.tags else _Yuv(self._tags)
        rate = Fraction(wanted.fps).limit_denominator(1001)
        context = CodecContext.create("libx264", "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height = size_of("h264", width, height)
        context.pix_fmt = "yuv420p"
        context.time_base, context.framerate = 1 / rate, rate
        context.thread_count = min(MAX_THREADS, len(os.sched_getaffinity(0)))
        context.gop_size = max(1, round(KEYFRAME_SECONDS * rate))
        context.options = {
            "preset": "superfast",
            "tune": "zerolatency",
            "bf": "0",
            "forced-idr": "1",
            "crf": str(round(51 - 0.36 * wanted.quality)),  # 85 is 20, 100 is 15
        }
        self._tag(context)
        self._context, self._count = context, 0

    def encode(self, picture: Plane, fresh: bool) -> tuple[Payload, bool]:
        frame = self._convert(picture) if self._convert else frame_of(picture, "yuv420")
        frame.pts, frame.time_base = self._count, self._context.time_base
        frame.pict_type = PictureType.I if fresh else PictureType.NONE
        self._tag(frame)
        self._count += 1
        try:
            packets = self._context.encode(frame)
        except (av.FFmpegError, ValueError) as error:
            size = f"{self._context.width}x{self._context.height}"
            raise EncoderError(f"H.264 of {size} cannot be made; take another format or scale") from error
        return b"".join(map(bytes, packets)), any(packet.is_keyframe for packet in packets)

    def _tag(self, target: "VideoFrame | VideoCodecContext") -> None:
        target.colorspace, target.color_range = self._tags.colorspace, self._tags.color_range
        target.color_primaries, target.color_trc = self._tags.color_primaries, self._tags.color_trc
