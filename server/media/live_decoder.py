"""H.264 as FLV carries it, decoded picture by picture. Parses what strangers send; knows nothing of servers or engines."""

from typing import Any

import av
from av.codec import CodecContext
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from server.media.errors import UnreadableError, UnsupportedError
from server.media.live_input import Decoded, FrameLimits, Picture, checked_tags, limits_kept

MIN_FPS, MAX_FPS = 1, 240
"""That are believed."""


class LiveDecoder:
    """Decodes what follows one configuration. One thread at a time."""

    def __init__(self, record: bytes, reorders: bool, limits: FrameLimits) -> None:
        """Args:
        record: the AVCDecoderConfigurationRecord.
        reorders: there are B-frames, so that pictures come later than their data.
        limits: of a picture.
        """
        if len(record) < 7 or record[0] != 1:
            raise UnreadableError("the stream's H.264 configuration is damaged")
        context = CodecContext.create("h264", "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = record
        context.thread_type, context.thread_count = "NONE", 1
        if not reorders:
            context.flags |= Flags.low_delay
        context.options = {"max_pixels": str(limits.pixels)}
        self._context, self._limits = context, limits

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
        return self._decode(None)

    def _decode(self, packet: "Packet[Any] | None") -> list[tuple[int, Picture]]:
        try:
            return [self._checked(frame) for frame in self._context.decode(packet)]
        except av.FFmpegError as error:
            limits_kept(self._context, self._limits)
            raise UnreadableError("a picture cannot be decoded") from error

    def _checked(self, frame: VideoFrame) -> tuple[int, Picture]:
        self._limits.check(frame.width, frame.height)
        if frame.interlaced_frame:
            raise UnsupportedError("the stream is interlaced; deinterlace it before it is published")
        assert frame.pts is not None
        return frame.pts, Decoded(frame, checked_tags(frame))
