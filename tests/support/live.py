"""A live session in this process, driven as the api process drives its worker; and frames for it."""

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from av.codec import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from PIL import Image

from server.media.live_formats import Format
from server.streams import live
from server.streams.protocol import ARRIVAL, END, HEADER_BYTES, STAGES, Header, parse_header
from server.streams.wire import Channel, Kind
from tests.support.fake_engine import FakeHost

WAIT_SECONDS = 60.0

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """A frame that came back."""

    header: Header
    payload: bytes
    stages: tuple[float, ...]


@dataclass
class Session:
    """Our end of a session."""

    channel: Channel
    thread: threading.Thread
    events: list[dict[str, Any]] = field(default_factory=list)  # that came so far
    answers: list[Answer] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)  # that ended the worker

    def send(self, sequence: int, payload: bytes = b"", flags: int = 0, at: float | None = None, pts_us: int = 0) -> None:
        """One frame, as the api process passes it on."""
        arrival = ARRIVAL.pack(time.monotonic() if at is None else at)
        self.channel.send_frame(arrival, Header(sequence, flags, pts_us).pack(), payload)

    def receive(self) -> Answer | dict[str, Any] | None:
        """The next message; None: it is over."""
        received = self.channel.receive()
        if received is None:
            return None
        kind, data = received
        if kind is Kind.JSON:
            self.events.append(json.loads(bytes(data)))
            return self.events[-1]
        payload = bytes(data[STAGES.size + HEADER_BYTES :])
        self.answers.append(Answer(parse_header(data, STAGES.size), payload, STAGES.unpack_from(data)))
        return self.answers[-1]

    def answer(self) -> Answer:
        """The next frame; what comes before it is kept in `events`."""
        while not isinstance(message := self.receive(), Answer):
            assert message is not None, self.events
        return message

    def event(self, kind: str) -> dict[str, Any]:
        """The next message of a type."""
        while not (isinstance(message := self.receive(), dict) and message["type"] == kind):
            assert message is not None, self.events
        return message

    def finish(self, sequence: int) -> None:
        """Says that nothing follows, and takes in what is left."""
        self.send(sequence, flags=END)
        while not self.answer().header.ends:
            pass

    def sequences(self, kind: str) -> list[int]:
        """The numbers in all events of a type."""
        found = [event["sequence"] for event in self.events if event["type"] == kind and "sequence" in event]
        return [number for one in found for number in (one if isinstance(one, list) else [one])]


def options(
    source: Format, target: Format, width: int | None = None, height: int | None = None, scale: int = 2, **more: Any
) -> dict[str, Any]:
    """What the api process starts a worker with."""
    size = {} if width is None else {"width": width, "height": height}
    start = {"type": "start", "scale": scale, "late": "keep", "input": {"format": source, **size}}
    start |= {"output": {"format": target}} | {name: value for name, value in more.items() if name in ("late", "fps")}
    rest = {name: value for name, value in more.items() if name not in ("late", "fps")}
    defaults = {"model": "xlsr", "pixels": 1 << 21, "output_pixels": 1 << 26, "frame_queue": 8, "budget_seconds": 5.0}
    return {"start": start, **defaults, **rest}


@contextmanager
def session(host: FakeHost, wanted: dict[str, Any]) -> Iterator[Session]:
    """Runs a worker's main function in a thread."""
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_SECONDS)
    running = Session(Channel(ours), threading.Thread())

    def work() -> None:
        try:
            live.run(Channel(theirs), "", wanted, host.connect)
        except BaseException as error:
            running.errors.append(error)
        finally:
            theirs.shutdown(socket.SHUT_RDWR)

    running.thread = threading.Thread(target=work, name="session")
    running.thread.start()
    try:
        yield running
    finally:
        ours.shutdown(socket.SHUT_RDWR)
        running.thread.join(WAIT_SECONDS)
        ours.close()
        theirs.close()
    assert not running.thread.is_alive()


def encode(name: Format, rgb: Rgb) -> bytes:
    """A picture as a client sends it; h264 not among them."""
    if name == "jpeg":
        return bytes(simplejpeg.encode_jpeg(rgb, 98, "RGB", "444"))
    if name == "png":
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "PNG")
        return file.getvalue()
    return rgb.tobytes() if name == "rgb24" else yuv_of(rgb).tobytes()


def yuv_of(rgb: Rgb) -> Rgb:
    """I420 by BT.601, limited: [1.5 * H, W]."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
    return np.asarray(frame.reformat(format="yuv420p", dst_colorspace=5, dst_color_range=1).to_ndarray())


def rgb_of(frame: VideoFrame) -> Rgb:
    """By the frame's own tags, exactly enough to compare."""
    matrix, full = (1 if int(frame.colorspace) == 1 else 5), int(frame.color_range)
    exact = 2 | 0x40000 | 0x2000  # bilinear, accurate rounding, full chroma
    converted = frame.reformat(format="rgb24", src_colorspace=matrix, src_color_range=full or 1, interpolation=exact)
    return np.asarray(converted.to_ndarray())


def decode(name: Format, payload: bytes, width: int, height: int) -> Rgb:
    """A picture as a client sees it; raw YUV is BT.601 below 720 lines."""
    if name == "jpeg":
        return np.asarray(simplejpeg.decode_jpeg(payload, "RGB"))
    if name == "png":
        return np.asarray(Image.open(io.BytesIO(payload)))
    if name == "rgb24":
        return np.frombuffer(payload, np.uint8).reshape(height, width, 3)
    if name == "yuv420p":
        return rgb_of(VideoFrame.from_ndarray(np.frombuffer(payload, np.uint8).reshape(-1, width), "yuv420p"))
    [frame] = H264Decoder().decode(payload)
    return rgb_of(frame)


class H264Encoder:
    """A client's encoder: no delay, as WebCodecs in real-time mode."""

    def __init__(self, width: int, height: int, **settings: str) -> None:
        context = cast(VideoCodecContext, CodecContext.create("libx264", "w"))
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
        context.colorspace, context.color_range = 5, 1
        context.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "5"} | settings
        self._context, self._count = context, 0

    def encode(self, rgb: Rgb | None) -> list[bytes]:
        """The access units that are ready; None gives the last ones."""
        frame = None
        if rgb is not None:
            frame = VideoFrame.from_ndarray(yuv_of(rgb), "yuv420p")
            frame.pts, frame.time_base = self._count, Fraction(1, 30)
            self._count += 1
        return [bytes(packet) for packet in self._context.encode(frame)]


class H264Decoder:
    """A player."""

    def __init__(self) -> None:
        self._context = cast(VideoCodecContext, CodecContext.create("h264", "r"))

    def decode(self, *units: bytes) -> list[VideoFrame]:
        """All frames of a stream."""
        packets: list[Packet[Any]] = [Packet(unit) for unit in units]
        return [frame for packet in (*packets, None) for frame in self._context.decode(packet)]


def plain(value: int, width: int = 32, height: int = 24) -> Rgb:
    """One grey, which survives every codec."""
    return np.full((height, width, 3), value, np.uint8)


def psnr(one: Rgb, other: Rgb) -> float:
    """In dB against a peak of 255."""
    difference = one.astype(np.float64) - other
    return float(10 * np.log10(255**2 / max(1e-6, float(np.mean(difference**2)))))
