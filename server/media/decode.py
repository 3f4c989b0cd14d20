"""Reads a video file: pictures as 8-bit 4:2:0 planes, every other stream as the packets it came in.

Knows nothing of what the pictures are for. The only place that opens media for reading: what FFmpeg says of a bad file
becomes an error with a way out here, and nothing but a local file in a real container is ever opened.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from engines.runner import Plane
from models.colour import Colour, untagged
from server.media import _tags
from server.media._deinterlace import Deinterlacer, is_interlaced
from server.media._whole import bytes_missing
from server.media.errors import ContainerError, DimensionsError, HdrError, UnreadableError, UnsupportedError

if TYPE_CHECKING:
    from av.container.core import Chapter  # PyAV has it in its stubs only

# Containers that hold their own media. Playlists (concat, hls, dash, sdp, image2 ...) would open other files and hosts.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,flv,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,obu,ivf,asf,ogg,mxf,nut,yuv4mpegpipe,dv"
)
MAX_PIXELS = 8192 * 8192
MAX_STREAMS = 256
"""FFmpeg's work on opening a file grows with the square of their number."""

_SWS_BT601, _SWS_BT709 = 5, 1  # swscale's names for the matrices

# Metadata that is no UTF-8: PyAV replaces what it cannot read of its own accord from version 19 on.
_TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclass(frozen=True)
class DecodedFrame:
    """One picture.

    Attributes:
        planes: uint8 views y [H, W], u and v [(H+1)//2, (W+1)//2]; rows may lie further apart than their length. They
            keep the decoder's memory alive, so hold them no longer than needed.
        pts: when it is shown, in `time_base`; strictly greater than that of the frame before.
        duration: how long, in `time_base`; 0 when nobody knows.
        time_base: seconds of one unit.
    """

    planes: tuple[Plane, Plane, Plane]
    pts: int
    duration: int
    time_base: Fraction


class VideoSource:
    """A video file, open for reading. A context manager; one thread at a time.

    Attributes:
        width, height: of the decoded picture, pixels, before any rotation.
        frame_rate: frames per second, or None when the file gives no hint.
        time_base: seconds of one unit of a frame's time stamps.
        frames: the container's count of frames, or None.
        seconds: what the container says of its length, or None.
        codec: FFmpeg's name of the decoder.
        sample_aspect_ratio: width of a pixel to its height, or None.
        display_matrix: 9 integers as FFmpeg's AV_PKT_DATA_DISPLAYMATRIX, or None.
        colour: what the numbers in the planes mean.
        colorspace, color_primaries, color_trc, color_range: the tags to write beside them (H.273 numbers).
        notes: what was done to the pictures, or left out, that a user must be told.
        copied_streams: the streams whose packets `read` yields (audio, subtitles, cover pictures) and attachments.
        chapters, metadata: of the file. video_metadata, video_disposition: of the video stream.
    """

    def __init__(self, path: Path, threads: int = 1, max_pixels: int = MAX_PIXELS) -> None:
        """Opens the file and decodes its first picture.

        Args:
            path: of a local file.
            threads: of the decoder; 0 leaves the number to FFmpeg.
            max_pixels: of one picture.

        Raises:
            UnreadableError: missing, not a supported container, damaged, cut off, without a picture.
            UnsupportedError: no video stream, HDR, or pictures that are too large.
        """
        self.path = path
        self.notes: list[str] = []
        self._container = _open(path)
        try:
            self._begin(threads, max_pixels)
        except BaseException:
            self.close()
            raise

    def _begin(self, threads: int, max_pixels: int) -> None:
        if missing := bytes_missing(self._container, self.path):
            raise UnreadableError(f"cut off, {missing} bytes are missing at the end; copy or download it again", self.path)
        self._video = self._pick_video()
        context = self._video.codec_context
        if context.width * context.height > max_pixels:
            size = f"{context.width}x{context.height}"
            raise DimensionsError(
                f"its picture is {size}; at most {max_pixels} pixels can be upscaled; scale it down", self.path
            )
        # Damage must stop the run, not be painted over; the size limit works only on the codec context.
        context.options = {"max_pixels": str(max_pixels), "err_detect": "explode"}
        context.thread_type, context.thread_count = "AUTO", threads
        self._deinterlacer: Deinterlacer | None = None
        self._packets = self._read = 0
        self._last_pts: int | None = None
        self._describe_container()
        self._events = self._process()
        self._ahead = self._read_first()

    def _pick_video(self) -> VideoStream:
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        streams = [s for s in streams if s.codec_context is not None]
        if not streams:
            raise UnsupportedError("it has no video that we can decode; name a file with a video stream", self.path)
        if len(streams) > 1:
            self.notes.append(f"{len(streams) - 1} further video stream(s) left out")
        return next((s for s in streams if s.disposition & Disposition.default), streams[0])

    def _describe_container(self) -> None:
        video = self._video
        self.time_base = _fraction(video.time_base) or Fraction(1, 90000)
        self.frame_rate = _fraction(video.average_rate) or _fraction(video.guessed_rate)
        self.frames: int | None = video.frames or None
        duration = self._container.duration
        self.seconds = None if duration is None else duration / av.time_base
        self.codec: str = video.codec_context.name
        self.chapters: list[Chapter] = self._container.chapters()
        self.metadata = dict(self._container.metadata)
        self.video_metadata = dict(video.metadata)
        self.video_disposition = video.disposition
        self.copied_streams = [s for s in self._container.streams if self._is_copied(s)]

    def _is_copied(self, stream: Stream) -> bool:
        if stream.type == "video":
            return bool(stream.disposition & Disposition.attached_pic)
        if stream.type in ("audio", "subtitle", "attachment"):
            return True
        # A QuickTime chapter track shows up as data; we carry the chapters themselves.
        if not self.chapters:
            self.notes.append(f"{stream.type} stream {stream.index} left out")
        return False

    def _read_first(self) -> "deque[DecodedFrame | Packet[Stream]]":
        ahead: deque[DecodedFrame | Packet[Stream]] = deque()
        for event in self._events:
            ahead.append(event)
            if isinstance(event, DecodedFrame):
                return ahead
        raise UnreadableError("no picture could be decoded; the file is empty or damaged", self.path)

    def read(self) -> "Iterator[DecodedFrame | Packet[Stream]]":
        """Frames, and packets of `copied_streams`, in the order of the file. Can be read once.

        Raises:
            UnreadableError: the file turned out to be damaged or cut off; the message says where.
            UnsupportedError: the size of the picture changed.
        """
        while self._ahead:
            yield self._ahead.popleft()
        yield from self._events

    def close(self) -> None:
        """Closes the file. Frames that were read stay valid."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _process(self) -> "Iterator[DecodedFrame | Packet[Stream]]":
        streams = [self._video, *(s for s in self.copied_streams if s.type != "attachment")]
        try:
            for packet in self._container.demux(streams):
                if packet.stream_index == self._video.index:
                    yield from self._decode(packet)
                elif packet.size:
                    yield self._checked(packet)
            if self._deinterlacer:
                yield from map(self._finish, self._deinterlacer(None))
        except av.FFmpegError as error:
            raise self._damaged(error.strerror or str(error)) from error
        self._check_count()

    def _decode(self, packet: "Packet[Any]") -> Iterator[DecodedFrame]:
        if packet.dts is not None or packet.pts is not None or packet.size:
            self._packets += 1
            if not packet.size:  # an AVI's way to say "the same picture again"; to the decoder it would mean the end
                return
        for frame in self._checked(packet).decode():
            if not self._read:
                self._describe_picture(frame)
            self._read += 1
            self._check_size(frame)
            yield from map(self._finish, self._deinterlacer(frame) if self._deinterlacer else [frame])

    def _checked(self, packet: "Packet[Any]") -> "Packet[Any]":
        if packet.is_corrupt:
            raise self._damaged("a packet is incomplete")
        return packet

    def _damaged(self, why: str) -> UnreadableError:
        seconds = float((self._last_pts or 0) * self.time_base)
        return UnreadableError(
            f"damaged or cut off after frame {self._read} ({seconds:.3f} s): {why}; copy or download it again", self.path
        )

    def _check_count(self) -> None:
        # An edit list hides samples, which stream.frames still counts; the index is what there is to demux.
        is_mov = self._container.format.name.startswith("mov")
        expected = len(self._video.index_entries) if is_mov else self._video.frames
        if self._packets < expected:
            raise self._damaged(f"{self._packets} of {expected} frames are there")

    def _check_size(self, frame: VideoFrame) -> None:
        if (frame.width, frame.height) != (self.width, self.height):
            raise UnsupportedError(
                f"the picture changes from {self.width}x{self.height} to {frame.width}x{frame.height} at frame {self._read};"
                " split the file there and upscale the parts",
                self.path,
            )

    def _describe_picture(self, frame: VideoFrame) -> None:
        self.width, self.height = frame.width, frame.height
        self.sample_aspect_ratio = _fraction(self._video.sample_aspect_ratio)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        self.display_matrix = None if matrix is None else [int(v) for v in np.frombuffer(bytes(cast(Any, matrix)), np.int32)]
        self._describe_colour(frame)
        self._describe_format(frame)
        if is_interlaced(self._video, frame):
            self.notes.append("deinterlaced (bwdif)")
            self._deinterlacer = Deinterlacer(frame, self._video.time_base)

    def _describe_colour(self, frame: VideoFrame) -> None:
        if name := _tags.HDR_TRANSFERS.get(frame.color_trc):
            raise HdrError(f"it is HDR ({name}), the networks know only SDR; tone-map it to BT.709 first", self.path)
        raw = _tags.Tags(int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc), int(frame.color_range))
        self._rgb_matrix: int | None = None
        if frame.format.is_rgb:
            self._rgb_matrix = _SWS_BT601 if untagged(frame.height).matrix == "bt601" else _SWS_BT709
            raw = _tags.Tags(_tags.UNSPECIFIED, raw.color_primaries, raw.color_trc, _tags.LIMITED)
        tags = _tags.resolve(raw, frame.height, frame.format.name.startswith("yuvj"))
        self.colour: Colour = tags.colour()
        self.colorspace, self.color_primaries = tags.colorspace, tags.color_primaries
        self.color_trc, self.color_range = tags.color_trc, tags.color_range

    def _describe_format(self, frame: VideoFrame) -> None:
        components = frame.format.components
        if components[0].bits > 8:
            self.notes.append(f"{components[0].bits}-bit reduced to 8 bit")
        if frame.format.is_rgb:
            self.notes.append(f"RGB converted to {self.colour.matrix.upper()} 4:2:0")
        elif len(components) >= 3 and (components[1].width, components[1].height) > _half(frame):
            self.notes.append(f"chroma reduced to 4:2:0 (from {frame.format.name})")

    def _finish(self, frame: VideoFrame) -> DecodedFrame:
        scale = (_fraction(frame.time_base) or self.time_base) / self.time_base
        duration = round((frame.duration or 0) * scale) or self._step()
        pts = self._next_pts(None if frame.pts is None else round(frame.pts * scale), duration)
        return DecodedFrame(_planes(self._to_420(frame)), pts, duration, self.time_base)

    def _step(self) -> int:
        return round(1 / self.frame_rate / self.time_base) if self.frame_rate else 0

    def _next_pts(self, pts: int | None, duration: int) -> int:
        last = self._last_pts
        if pts is None:
            pts = 0 if last is None else last + max(1, self._step() or duration)
        if last is not None and pts <= last:
            if (last - pts) * self.time_base > 1:
                raise UnsupportedError(
                    f"the time stamps jump back at frame {self._read}; remux the file with new ones first", self.path
                )
            pts = last + 1  # two pictures of one moment: keep both, a tick apart
        self._last_pts = pts
        return pts

    def _to_420(self, frame: VideoFrame) -> VideoFrame:
        if frame.format.name in ("yuv420p", "yuvj420p"):
            return frame
        if self._rgb_matrix is not None:
            return frame.reformat(format="yuv420p", dst_colorspace=self._rgb_matrix, dst_color_range=_tags.LIMITED)
        return frame.reformat(format="yuv420p", src_color_range=self.color_range, dst_color_range=self.color_range)


def _fraction(value: Any) -> Fraction | None:
    """A ratio of PyAV's (a Fraction before version 19, a type of its own since) as a Fraction; None where it says nothing."""
    return Fraction(value.numerator, value.denominator) if value and value.numerator and value.denominator else None


def _half(frame: VideoFrame) -> tuple[int, int]:
    return (frame.width + 1) // 2, (frame.height + 1) // 2


def _planes(frame: VideoFrame) -> tuple[Plane, Plane, Plane]:
    y, u, v = (
        np.frombuffer(cast(Any, plane), np.uint8)[: plane.line_size * plane.height].reshape(plane.height, plane.line_size)[
            :, : plane.width
        ]
        for plane in frame.planes
    )
    return y, u, v


def _open(path: Path) -> InputContainer:
    if not path.exists():
        raise UnreadableError("no such file; check the name", path)
    if not path.is_file():
        kind = "directory" if path.is_dir() else "device or pipe"
        raise ContainerError(f"a {kind}, not a file; name one video file", path)
    # "file:" keeps a name such as "concat:a|b" from being taken for a protocol.
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "max_streams": str(MAX_STREAMS)}
    try:
        return cast(InputContainer, av.open(f"file:{path}", "r", options=options, **_TOLERANT))
    except av.error.PermissionError as error:
        raise UnreadableError("we may not read it; check its permissions", path) from error
    except av.error.MemoryError as error:  # what FFmpeg says of a stream too many, too
        raise UnsupportedError(
            f"it has more than {MAX_STREAMS} streams, or asks for too much memory; remux it", path
        ) from error
    except (av.FFmpegError, ValueError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ContainerError(
            f"not a supported container, or damaged at its start ({why}); convert it to MP4 or MKV first", path
        ) from error
