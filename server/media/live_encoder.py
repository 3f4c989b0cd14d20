"""H.264 for live streams: a constant bitrate, no delay, no B-frames, a keyframe every so often or when it is asked for.

Knows nothing of FLV or of servers.
"""

import math
import os
from dataclasses import dataclass
from fractions import Fraction

import av
from av.codec import CodecContext
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from engines.runner import Plane
from server.media import _tags, avc
from server.media._planes import copy_planes, frame_of, planes_of
from server.media.encoders import EncoderSettings, choose
from server.media.errors import EncoderError

ENCODERS = ("libx264", "h264_nvenc")
"""What RTMP can carry of `server.media.encoders.ENCODERS`."""

MAX_THREADS = 4
"""Slices of one picture that x264 compresses at once, at most."""

VBV_SECONDS = 0.5
"""Of the stream that a player's buffer must hold, at most: one keyframe may be so large."""

_MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True)
class LiveVideo:
    """What is to be encoded."""

    width: int  # pixels, even
    height: int
    fps: float  # about
    tags: _tags.Tags
    encoder: str  # auto, or one of ENCODERS
    bitrate: int | None  # bit/s; None: by size and rate
    keyframe_seconds: float


@dataclass(frozen=True)
class Encoded:
    """A picture as FLV takes it."""

    data: bytes
    keyframe: bool


def choose_live(name: str) -> str:
    """The encoder that `name` means here: auto is NVENC where one frame of it could be encoded, else x264.

    Raises:
        EncoderError: unknown, not for RTMP, or cannot be used on this machine.
    """
    if name == "auto":
        try:
            return choose(EncoderSettings("h264_nvenc")).name
        except EncoderError:
            return "libx264"
    if name not in ENCODERS:
        raise EncoderError(f"no encoder {name!r} for live streams, which are H.264; choose auto, {', '.join(ENCODERS)}")
    return choose(EncoderSettings(name)).name


def usual_bitrate(width: int, height: int, fps: float) -> int:
    """What services recommend, roughly: 6 Mbit/s for 1080p30, and less for each pixel where there are more of them."""
    return round(6e6 * math.pow(width * height * fps / (1920 * 1080 * 30), 0.75))


class LiveEncoder:
    """Encodes the pictures of one size. One thread at a time.

    Attributes:
        name: of the encoder in use.
        has_picture: there is one to repeat.
    """

    def __init__(self, video: LiveVideo) -> None:
        """Raises: EncoderError: see `choose_live`; or it refuses the size or the bitrate."""
        self.name = choose_live(video.encoder)
        self.bitrate = video.bitrate or usual_bitrate(video.width, video.height, video.fps)
        self.has_picture = False
        self._video = video
        try:
            self._context = self._opened(video)
        except EncoderError:
            if video.encoder != "auto" or self.name == "libx264":
                raise
            self.name = "libx264"  # cards have limits of their own: 4096 pixels a side, so many sessions
            self._context = self._opened(video)
        self._still = VideoFrame(video.width, video.height, "yuv420p")  # the latest picture
        self._key_at: int | None = None
        self.configuration = avc.configuration(bytes(self._context.extradata or b""))
        """The AVCDecoderConfigurationRecord."""

    def encode(self, picture: Plane, pts_ms: int, fresh: bool) -> Encoded:
        """One picture.

        Args:
            picture: yuv420, see `engines.slots.Slot.picture`; it may be written again afterwards.
            pts_ms: when it is shown; higher than that of the one before.
            fresh: make it a keyframe.

        Raises:
            EncoderError: the encoder failed.
        """
        self.keep(picture)
        return self.repeat(pts_ms, fresh)

    def keep(self, picture: Plane) -> None:
        """Only remembers a picture, for `repeat`."""
        copy_planes(planes_of(frame_of(picture, "yuv420")), planes_of(self._still))
        self.has_picture = True

    def repeat(self, pts_ms: int, fresh: bool) -> Encoded:
        """The latest picture once more, of which there must be one; see `encode`."""
        key = fresh or self._key_at is None or pts_ms - self._key_at >= 1000 * self._video.keyframe_seconds
        frame = self._still
        frame.pts, frame.time_base = pts_ms, _MILLISECOND
        frame.pict_type = PictureType.I if key else PictureType.NONE
        self._tag(frame)
        try:
            packets = self._context.encode(frame)
        except (av.FFmpegError, ValueError) as error:
            raise EncoderError(f"{self.name} failed on a picture") from error
        keyframe = any(packet.is_keyframe for packet in packets)
        if keyframe:
            self._key_at = pts_ms
        return Encoded(avc.access_unit(b"".join(map(bytes, packets))), keyframe)

    def _opened(self, video: LiveVideo) -> VideoCodecContext:
        context = CodecContext.create(self.name, "w")
        assert isinstance(context, VideoCodecContext)
        rate = Fraction(video.fps).limit_denominator(1001)
        context.width, context.height, context.pix_fmt = video.width, video.height, "yuv420p"
        context.time_base, context.framerate = _MILLISECOND, rate
        context.bit_rate = self.bitrate
        context.gop_size = max(1, round(2 * video.keyframe_seconds * rate))  # `repeat` asks for keyframes, by time
        context.max_b_frames = 0
        context.flags |= Flags.global_header
        rates = {"maxrate": str(self.bitrate), "bufsize": str(round(VBV_SECONDS * self.bitrate))}
        if self.name == "libx264":
            context.thread_count = min(MAX_THREADS, len(os.sched_getaffinity(0)))
            context.options = rates | _X264
        else:
            context.options = rates | _NVENC
        self._tag(context)
        try:
            context.open()
        except (av.FFmpegError, ValueError) as error:
            what = f"{video.width}x{video.height} at {self.bitrate} bit/s"
            raise EncoderError(f"{self.name} does not encode {what}; take another scale or bitrate") from error
        return context

    def _tag(self, target: VideoFrame | VideoCodecContext) -> None:
        tags = self._video.tags
        target.colorspace, target.color_range = tags.colorspace, tags.color_range
        target.color_primaries, target.color_trc = tags.color_primaries, tags.color_trc


# "superfast" would take time from the network, which does more for the picture than the rest of its tools.
_X264 = {
    "preset": "ultrafast",
    "tune": "zerolatency",
    "forced-idr": "1",
    # Filler makes the rate constant. nal-hrd=cbr would, too, but its SEI refers to parameter sets, which nginx writes after it
    # into HLS: Chromium's player fails on that.
    "x264-params": "8x8dct=1:deblock=0,0:filler=1",
}
_NVENC = {"preset": "p3", "tune": "ull", "rc": "cbr", "forced-idr": "1", "delay": "0", "zerolatency": "1"}
