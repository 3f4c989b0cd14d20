"""H.264 of a live stream, decoded picture by picture. Parses what strangers send; knows nothing of servers or engines."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.codec import CodecContext
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from engines.runner import Planes
from server.media import _tags
from server.media._deinterlace import Deinterlacer
from server.media._planes import copy_planes, planes_of
from server.media.errors import HdrError, UnreadableError
from server.media.live_picture import FrameLimits, Picture, Shape

MIN_FPS, MAX_FPS = 1, 240
"""That are believed."""

_NUMBERS = Fraction(1, 1000)
"""Time base of pictures: their numbers stand for it."""


class LiveDecoder:
    """Decodes one stream. One thread at a time.

    Attributes:
        deinterlaces: pictures are interlaced, so that each comes one later than its data (bwdif).
    """

    def __init__(self, record: bytes | None, reorders: bool, limits: FrameLimits) -> None:
        """Args:
        record: the AVCDecoderConfigurationRecord, as FLV has it; None: access units are Annex B.
        reorders: there are B-frames, so that pictures come later than their data.
        limits: of a picture.

        Raises:
            UnreadableError: the record is damaged.
        """
        context = CodecContext.create("h264", "r")
        assert isinstance(context, VideoCodecContext)
        if record is not None:
            if len(record) < 7 or record[0] != 1:
                raise UnreadableError("the stream's H.264 configuration is damaged")
            context.extradata = record
        context.thread_type, context.thread_count = "NONE", 1
        if not reorders:
            context.flags |= Flags.low_delay
        context.options = {"max_pixels": str(limits.pixels)}
        self._context, self._limits = context, limits
        self._deinterlacer: Deinterlacer | None = None

    @property
    def deinterlaces(self) -> bool:
        return self._deinterlacer is not None

    @property
    def fps(self) -> float:
        """Pictures a second, by what the stream says of itself; 0: it says nothing of use."""
        rate = self._context.framerate
        return float(rate) if rate and MIN_FPS <= rate <= MAX_FPS else 0.0

    def decode(self, number: int, access_unit: bytes) -> list[tuple[int, Picture]]:
        """The pictures that are known after an access unit, each with the number of its own, in the order they are shown in.

        Raises:
            UnreadableError: it is damaged; the next keyframe may be decoded.
            UnsupportedError: and so it will go on.
        """
        packet: Packet[Any] = Packet(access_unit)
        packet.pts = number
        return self._decode(packet)

    def flush(self) -> list[tuple[int, Picture]]:
        """The pictures that were held back; nothing can be decoded after them."""
        pictures = self._decode(None)
        return pictures + [_numbered(frame) for frame in self._deinterlaced(None)]

    def _decode(self, packet: "Packet[Any] | None") -> list[tuple[int, Picture]]:
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError as error:
            context, limits = self._context, self._limits
            if context.width * context.height > limits.pixels:  # FFmpeg takes no memory for it, but knows its size
                limits.check(context.width, context.height)
            raise UnreadableError("a picture cannot be decoded; go on with a keyframe") from error
        return [_numbered(ready) for frame in frames for ready in self._progressive(frame)]

    def _progressive(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """What is ready to be shown after a frame."""
        self._limits.check(frame.width, frame.height)
        if frame.interlaced_frame and self._deinterlacer is None:
            self._deinterlacer = Deinterlacer(frame, _NUMBERS)
        if self._deinterlacer is None:
            yield frame
            return
        if not self._deinterlacer.takes(frame):  # another size begins
            yield from self._deinterlaced(None)
            self._deinterlacer = None
            yield from self._progressive(frame)
            return
        yield from self._deinterlaced(frame)

    def _deinterlaced(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        for ready in self._deinterlacer(frame) if self._deinterlacer else ():
            assert ready.pts is not None and ready.time_base
            ready.pts = round(ready.pts * ready.time_base / _NUMBERS)  # the filter has a time base of its own
            yield ready


class _Decoded:
    """A picture in the decoder's memory."""

    def __init__(self, frame: VideoFrame) -> None:
        tags = _checked_tags(frame)
        self._frame = _to_420(frame, tags)
        self.shape = Shape("yuv420", frame.width, frame.height, tags)

    def fill(self, inputs: Planes) -> None:
        copy_planes(planes_of(self._frame), inputs)


def _numbered(frame: VideoFrame) -> tuple[int, Picture]:
    assert frame.pts is not None
    return frame.pts, _Decoded(frame)


def _checked_tags(frame: VideoFrame) -> _tags.Tags:
    """What a picture's colours mean. Raises: HdrError: nothing that is upscaled."""
    if name := _tags.HDR_TRANSFERS.get(frame.color_trc):
        raise HdrError(f"the stream is HDR ({name}), the networks know only SDR; tone-map it to BT.709 first")
    raw = _tags.Tags(int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc), int(frame.color_range))
    return _tags.resolve(raw, frame.height, frame.format.name.startswith("yuvj"))


def _to_420(frame: VideoFrame, tags: _tags.Tags) -> VideoFrame:
    if frame.format.name in ("yuv420p", "yuvj420p"):
        return frame
    return frame.reformat(format="yuv420p", src_color_range=tags.color_range, dst_color_range=tags.color_range)
