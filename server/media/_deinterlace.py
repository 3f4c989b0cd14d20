"""Turns interlaced pictures into progressive ones, one for one.

Knows nothing of files; frames marked progressive pass untouched.
"""

from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_INTERLACED_ORDERS = (2, 3, 4, 5)  # AV_FIELD_TT, _BB, _TB, _BT


def is_interlaced(stream: VideoStream, frame: VideoFrame) -> bool:
    """The frame, or what the stream says of its fields, is interlaced."""
    return frame.interlaced_frame or stream.codec_context.field_order in _INTERLACED_ORDERS


class Deinterlacer:
    """bwdif. Keeps the number of frames and their time stamps; gives each frame one frame late."""

    def __init__(self, frame: VideoFrame, time_base: Fraction | None) -> None:
        """Args:
        frame: like those that will come.
        time_base: seconds of one unit of their time stamps.
        """
        self._kind, self._graph = _kind(frame), Graph()
        source = self._graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base=str(time_base),
            pixel_aspect="1/1",
            colorspace=str(frame.colorspace),
            range=str(frame.color_range),
        )
        bwdif = self._graph.add("bwdif", mode="send_frame", deint="interlaced")
        self._graph.link_nodes(source, bwdif, self._graph.add("buffersink")).configure()

    def takes(self, frame: VideoFrame) -> bool:
        """Whether a frame is like the first one."""
        return _kind(frame) == self._kind

    def __call__(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """The frames that are ready after `frame`; None gives the last ones."""
        self._graph.vpush(frame)
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return


def _kind(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
