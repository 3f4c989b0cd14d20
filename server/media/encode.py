"""Writes a video file: new pictures, and everything else as it was in the source.

Knows nothing of where the pictures come from. The only place that opens media for writing. What is under way has a hidden
name and gets its own when it is complete: a file with the right name is a whole one.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from server.media import _subtitles
from server.media.decode import VideoSource
from server.media.encoders import ENCODERS, EncoderSettings, choose
from server.media.errors import EncoderError, OutputError, PacketError, StorageError

__all__ = ["CONTAINERS", "ENCODERS", "EncoderSettings", "VideoSink"]

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".flv": "flv"}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Facts about the old file's bytes, which would be lies about the new one's.
_STALE = ("BPS", "DURATION", "NUMBER_OF_", "_STATISTICS", "ENCODER", "MAJOR_BRAND", "MINOR_VERSION", "COMPATIBLE_BRANDS")


class VideoSink:
    """A video file being written. A context manager: a clean exit completes the file, any other removes it.

    One thread at a time, which may be another one than the source's.

    Attributes:
        path: of the file to be.
        size: width and height of its pictures, pixels.
        encoder: the encoder that was chosen.
        codec: what it makes, such as h264.
        notes: what the container cannot hold, or was changed for it, that a user must be told.
        frames: encoded so far.
    """

    def __init__(
        self, path: Path, source: VideoSource, width: int, height: int, settings: EncoderSettings | None = None
    ) -> None:
        """Opens the encoder and writes the header.

        Args:
            path: .mp4, .mov, .mkv or .flv.
            source: where streams, tags, chapters and time base come from; it must stay open as long as this.
            width, height: of the pictures to come, even, pixels.
            settings: of the encoder.

        Raises:
            EncoderError: the encoder is unknown, cannot be used, refuses an option or the size.
            OutputError: the file cannot be written there, or would replace its source.
        """
        settings = settings or EncoderSettings()
        self.path, self._source, self.size = path, source, (width, height)
        self.notes: list[str] = []
        self.frames = 0
        self._format = _container_of(path)
        self._check_place()
        encoder = choose(settings)
        self.encoder = encoder.name
        self._temporary = path.parent / f".{path.name}.partial-{os.getpid()}"
        self._create_temporary()
        self._output: OutputContainer | None = None
        try:
            self._output = self._open_output()
            self._video = self._add_video(encoder.options(settings), settings.threads)
            self.codec: str = self._video.codec_context.codec.canonical_name
            self._copies: dict[int, Stream] = {}
            self._rewrites: dict[int, str] = {}
            self._copy_descriptions()
            self._write_header()
        except BaseException:
            self.discard()
            raise

    def encode(self, i420: npt.NDArray[np.uint8], pts: int, duration: int) -> None:
        """Compresses one picture.

        Args:
            i420: uint8 [height * 3 / 2, width], C-contiguous: the rows of y, then u, then v. Free again on return. A picture
                of another size than the file's is scaled to it.
            pts: in the source's time base, greater than the one before.
            duration: in the source's time base; 0 when nobody knows.

        Raises:
            EncoderError: the encoder failed.
            OutputError: the disk is full, or failed.
        """
        frame = self._frame(i420)
        frame.pts, frame.time_base, frame.duration = pts, self._source.time_base, duration
        self._tag(frame)
        self._mux(self._compress(frame))
        self.frames += 1

    def copy(self, packet: "Packet[Any]") -> None:
        """Writes a packet of one of the source's copied streams; one of a stream left out is dropped.

        Raises:
            OutputError: the disk is full, or failed, or the container refuses the packet.
        """
        index = packet.stream_index
        if index not in self._copies:
            return
        if index in self._rewrites:
            packet = _rewritten(packet, self._rewrites[index])
        packet.stream = self._copies[index]
        self._mux([packet])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None or self._output is None:
            self.discard()
            return
        try:
            self._complete()
        except BaseException:
            self.discard()
            raise

    def _complete(self) -> None:
        assert self._output is not None
        self._mux(self._compress(None))
        with self._writing():
            self._output.close()
            self._output = None
            os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Removes what was written so far; nothing can be written any more, and leaving the context completes nothing."""
        output, self._output = self._output, None
        if output is not None:
            with suppress(Exception):  # it raises again what was raised already
                output.close()
        self._temporary.unlink(missing_ok=True)

    def _check_place(self) -> None:
        folder = self.path.parent
        if not folder.is_dir():
            raise OutputError(f"there is no folder {folder}; create it first", self.path)
        if self.path.is_dir():
            raise OutputError("a directory has that name; choose another", self.path)
        if self.path.exists() and self.path.samefile(self._source.path):
            raise OutputError("that is the input itself; choose another name for the output", self.path)

    def _create_temporary(self) -> None:
        try:
            self._temporary.touch()
        except OSError as error:
            kind = StorageError if error.errno in _FULL else OutputError
            raise kind(f"we may not write there ({error.strerror}); choose another folder", self.path) from error

    def _open_output(self) -> OutputContainer:
        options = {"movflags": "faststart"} if self._format in ("mp4", "mov") else {}
        return av.open(f"file:{self._temporary}", "w", format=self._format, container_options=options)

    def _add_video(self, options: dict[str, str], threads: int) -> VideoStream:
        assert self._output is not None
        source, (width, height) = self._source, self.size
        rate = (source.frame_rate or Fraction(25)).limit_denominator(1 << 16)
        try:
            stream = self._output.add_stream(
                self.encoder, rate=rate, width=width, height=height, time_base=source.time_base, options=options
            )
        except ValueError as error:
            problem = f"{self._format} cannot hold video of {self.encoder}; use libx264 or .mkv"
            raise EncoderError(problem, self.path) from error
        assert isinstance(stream, VideoStream)
        self._configure(stream, threads)
        try:
            stream.codec_context.open()
        except (av.FFmpegError, ValueError) as error:
            raise EncoderError(
                f"{self.encoder} refuses {width}x{height} with {options} ({_why(error)}); change preset, crf or encoder"
            ) from error
        return stream

    def _configure(self, stream: VideoStream, threads: int) -> None:
        source, context = self._source, stream.codec_context
        context.pix_fmt, context.thread_count = "yuv420p", threads
        context.flags |= Flags.frame_duration  # else the last frame of a variable rate loses its length
        if source.sample_aspect_ratio:
            context.sample_aspect_ratio = source.sample_aspect_ratio
        self._tag(context)
        if "265" in self.encoder or "hevc" in self.encoder:
            context.codec_tag = "hvc1" if self._format in ("mp4", "mov") else context.codec_tag  # Apple plays no hev1
        stream.metadata.update(_lasting(source.video_metadata))
        stream.disposition = source.video_disposition
        if source.display_matrix:
            stream.set_display_matrix(self._scaled_matrix(source.display_matrix))

    def _tag(self, target: Any) -> None:
        source = self._source
        target.colorspace, target.color_primaries = source.colorspace, source.color_primaries
        target.color_trc, target.color_range = source.color_trc, source.color_range

    def _scaled_matrix(self, matrix: list[int]) -> list[int]:
        # Entries 6 and 7 shift the rotated picture back into view, by pixels of the picture.
        scale = Fraction(self.size[0], self._source.width)
        return [round(value * scale) if i in (6, 7) else value for i, value in enumerate(matrix)]

    def _copy_descriptions(self) -> None:
        assert self._output is not None
        supported = self._output.supported_codecs
        for stream in self._source.copied_streams:
            self._copy_stream(stream, supported)
        self._output.metadata.update(_lasting(self._source.metadata))
        if self._source.chapters and self._format == "flv":
            self.notes.append("chapters left out: flv cannot hold them")
        elif self._source.chapters:
            self._output.set_chapters(self._source.chapters)

    def _copy_stream(self, stream: Stream, supported: set[str]) -> None:
        codec = stream.codec_context.name if stream.codec_context else None
        target = _subtitles.target_codec(codec or "", self._format)
        copy = self._add_text(target) if target else self._add_copy(stream, codec, supported)
        if copy is None:
            self.notes.append(
                f"{stream.type} stream {stream.index} ({codec or 'unknown'}) left out: {self._format} cannot hold it"
            )
            return
        copy.metadata.update(_lasting(stream.metadata))
        copy.disposition = stream.disposition
        self._copies[stream.index] = copy
        if target:
            self._rewrites[stream.index] = target
            self.notes.append(f"subtitle stream {stream.index} rewritten from {codec} to {target}, without its styles")

    def _add_copy(self, stream: Stream, codec: str | None, supported: set[str]) -> Stream | None:
        assert self._output is not None
        is_cover = stream.type == "video"
        fits = self._format == "matroska" if stream.type == "attachment" else codec in supported
        if not fits or (is_cover and self._format not in ("mp4", "mov")):
            return None
        try:
            return self._output.add_stream_from_template(stream, opaque=True)
        except (av.FFmpegError, ValueError):
            return None

    def _add_text(self, target: str) -> Stream:
        assert self._output is not None
        stream = self._output.add_stream(target)
        context = cast(Any, stream.codec_context)
        context.subtitle_header = _subtitles.ASS_HEADER
        context.time_base = stream.time_base = Fraction(1, 1000)
        return cast(Stream, stream)

    def _write_header(self) -> None:
        assert self._output is not None
        with self._writing():
            self._output.start_encoding()

    def _frame(self, i420: npt.NDArray[np.uint8]) -> VideoFrame:
        """Wraps a picture, and scales it where the file is to have another size."""
        width, height = i420.shape[1], i420.shape[0] * 2 // 3
        # PyAV's wrapper miscounts the rows of a height that is not a multiple of 4.
        wrap = VideoFrame.from_numpy_buffer if height % 4 == 0 else VideoFrame.from_ndarray
        frame = wrap(i420, "yuv420p")
        if (width, height) == self.size:
            return frame
        return frame.reformat(*self.size, interpolation="LANCZOS")

    def _compress(self, frame: VideoFrame | None) -> "list[Packet[Any]]":
        try:
            return self._video.encode(frame)
        except av.FFmpegError as error:
            raise EncoderError(f"{self.encoder} failed at frame {self.frames} ({_why(error)}); try another encoder") from error

    def _mux(self, packets: "list[Packet[Any]]") -> None:
        assert self._output is not None
        with self._writing():
            self._output.mux(packets)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError, ValueError) as error:
            if getattr(error, "errno", None) in _FULL:
                raise StorageError("no space left for it; free some, or choose another folder", self.path) from error
            if isinstance(error, (av.error.ArgumentError, av.error.InvalidDataError, ValueError)):
                problem = (
                    f"{self._format} refuses a packet at frame {self.frames} ({_why(error)}); repair the input, or try .mkv"
                )
                raise PacketError(problem, self.path) from error
            problem = f"writing failed at frame {self.frames} ({_why(error)}); try another folder"
            raise OutputError(problem, self.path) from error


def _container_of(path: Path) -> str:
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        raise OutputError(f"we do not write {path.suffix or 'that'}; name it {', '.join(CONTAINERS)}", path) from None


def _why(error: Exception) -> str:
    """What FFmpeg or the system says, without the file's name."""
    return getattr(error, "strerror", None) or str(error)


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.upper().startswith(_STALE)}


def _rewritten(packet: "Packet[Any]", target: str) -> "Packet[Any]":
    text: Packet[Any] = Packet(_subtitles.rewrite(bytes(packet), target))
    text.time_base, text.pts, text.dts, text.duration = packet.time_base, packet.pts, packet.dts, packet.duration
    text.is_keyframe = True
    return text
