"""What a stream tells beside its answers, and what goes into it and comes out of it."""

from dataclasses import dataclass
from typing import Any, Literal

from fourfold_client.errors import FourfoldError
from fourfold_client.types import FrameFormat, Parsed


@dataclass(frozen=True)
class InputFrame:
    """A frame to be upscaled that says more of itself than its bytes do."""

    data: Any  # bytes, or an array of uint8
    pts_us: int | None = None  # comes back as it was; None: by the frame rate
    keyframe: bool = False


@dataclass(frozen=True)
class UpscaledFrame:
    """An answer."""

    sequence: int  # of the frame it answers, counted from 0
    data: bytes
    format: FrameFormat
    width: int | None  # in pixels, as far as the service said
    height: int | None
    pts_us: int
    keyframe: bool
    server_us: int  # microseconds inside the service
    repeated: bool = False  # H.264 only: was given before, and is needed again to decode what follows a lost connection

    def array(self) -> Any:
        """A raw frame as a NumPy array of uint8: rgb24 [height, width, 3]; yuv420p [height * 3 / 2, width].

        Raises:
            TypeError: the format is not raw.
        """
        if self.format not in ("rgb24", "yuv420p") or self.width is None or self.height is None:
            raise TypeError(f"a {self.format} frame has to be decoded first; only rgb24 and yuv420p are arrays")
        import numpy as np

        flat = np.frombuffer(self.data, np.uint8)
        return flat.reshape(self.height, self.width, 3) if self.format == "rgb24" else flat.reshape(-1, self.width)

    def __repr__(self) -> str:
        return f"<UpscaledFrame {self.sequence}, {self.format} {self.width}x{self.height}, {len(self.data)} bytes>"


@dataclass(frozen=True)
class Ready(Parsed):
    """The service takes frames. Comes again when the size of answers becomes known or changes, and after a lost connection."""

    session: str
    model: str
    engine: str | None
    precision: str | None
    format: FrameFormat
    width: int | None
    height: int | None


@dataclass(frozen=True)
class Dropped:
    """These frames are not answered.

    `late` and `queue_full` are the service's reasons. `connection`: they were under way when it was lost; `no_keyframe`: they
    came after that, and the service cannot decode them.
    """

    sequences: tuple[int, ...]
    reason: Literal["late", "queue_full", "connection", "no_keyframe"]


@dataclass(frozen=True)
class FrameFailed:
    """This frame could not be upscaled; the stream goes on."""

    sequence: int
    error: FourfoldError


@dataclass(frozen=True)
class ModelChanged:
    """Another model upscales from here on."""

    model: str
    reason: str


@dataclass(frozen=True)
class Statistics(Parsed):
    """Once a second."""

    fps_in: float
    fps_out: float
    latency_ms: dict[str, float | None]  # p50, p95, p99
    drops: dict[str, int]  # frames of this session by reason
    model: str


@dataclass(frozen=True)
class Reconnecting:
    """The connection was lost, or could not be made again."""

    error: FourfoldError  # why
    attempt: int  # that comes next, counted from 1
    delay_seconds: float  # until it is made


Event = Ready | Dropped | FrameFailed | ModelChanged | Statistics | Reconnecting
