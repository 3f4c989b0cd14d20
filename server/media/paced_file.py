"""A video file as if somebody published it: the bytes of an FLV stream, at the speed that it plays at."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import av

from server.media.decode import CONTAINERS
from server.media.errors import UnreadableError
from server.media.rtmp import AwayError


class PacedFile:
    """Reads a file of H.264 with AAC or MP3; see `server.media.rtmp.RtmpSource`."""

    def __init__(self, path: Path) -> None:
        """Raises: UnreadableError: it cannot be opened, or holds no video."""
        try:
            options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
            self._container = av.open(f"file:{path}", options=options)
        except (av.FFmpegError, OSError) as error:
            raise UnreadableError("it cannot be opened; name a video file", path) from error
        if not self._container.streams.video:
            raise UnreadableError("it holds no video", path)

    def chunks(self) -> Iterator[bytes]:
        """The bytes, each when it is due.

        Raises:
            AwayError: the file is over; UnreadableError: it cannot be an FLV stream.
        """
        written, started, first = io.BytesIO(), time.monotonic(), None
        sources = [self._container.streams.video[0], *self._container.streams.audio[:1]]
        try:
            with av.open(written, "w", format="flv", options={"flvflags": "no_duration_filesize"}) as flv:
                targets = {source.index: flv.add_stream_from_template(source) for source in sources}
                for packet in self._container.demux(sources):
                    if packet.dts is None or packet.time_base is None:
                        continue
                    due = float(packet.dts * packet.time_base)
                    first = due if first is None else first
                    time.sleep(max(0.0, started + due - first - time.monotonic()))
                    packet.stream = targets[packet.stream.index]
                    flv.mux_one(packet)
                    yield _taken(written)
            yield _taken(written)
        except (av.FFmpegError, ValueError) as error:
            raise UnreadableError("only H.264 with AAC or MP3 can be relayed; convert the file first") from error
        raise AwayError("ended", "the file is over", final=True)

    def close(self) -> None:
        self._container.close()


def _taken(written: io.BytesIO) -> bytes:
    data = written.getvalue()
    written.seek(0)
    written.truncate()
    return data
