"""What the threads of a live session hand to each other.

Knows nothing of how frames are decoded, upscaled or sent.
"""

from concurrent.futures import Future
from dataclasses import dataclass

from engines.slots import Slot
from models.errors import FourfoldError
from server.errors import ServiceError
from server.media.errors import MediaError
from server.media.live_picture import Picture, Shape
from server.streams._inbox import Inbox
from server.streams._rungs import Rung
from server.streams.protocol import DropReason, Header

OUTBOX_ITEMS = 64
"""That may wait for the client; frames are bounded by their slots long before."""


@dataclass(frozen=True)
class Arrived:
    """A frame of the client."""

    header: Header
    at: float  # time.monotonic(), in the api process

    @property
    def sequence(self) -> int:
        return self.header.sequence


@dataclass(frozen=True)
class Waiting:
    """A frame that can be decoded, or is."""

    frame: Arrived
    picture: Picture
    decode_seconds: float  # that it has taken so far


@dataclass(frozen=True)
class Planned:
    """Frames of this shape follow."""

    shape: Shape
    rung: Rung


@dataclass(frozen=True)
class Upscaling:
    """A frame on its way through an engine."""

    frame: Arrived
    rung: Rung
    slot: Slot
    done: Future[float]
    deadline: float
    submitted: float  # time.monotonic()
    done_at: list[float]  # time.monotonic(), once it is
    decode_seconds: float


@dataclass(frozen=True)
class Retired:
    """No frame of this rung follows."""

    rung: Rung


@dataclass
class Dropped:
    """Frames that will not be answered; grows until it is taken out."""

    reason: DropReason
    sequences: list[int]


@dataclass(frozen=True)
class Failed:
    """A frame that could not be upscaled."""

    sequence: int
    code: str
    message: str


@dataclass(frozen=True)
class End:
    """The client sends no more."""

    header: Header


@dataclass(frozen=True)
class Broken:
    """The session cannot go on."""

    error: BaseException


@dataclass(frozen=True)
class Sound:
    """Passes by untouched; relays only."""

    payload: bytes  # of an FLV tag
    configuration: bytes | None  # likewise: what a decoder must be told before
    pts_ms: int


Input = Waiting | End | Broken
Output = Planned | Upscaling | Retired | Dropped | Failed | Sound | End | Broken


class Outbox:
    """The way to the thread that talks to the client. Drops are told together, however slow the client reads."""

    def __init__(self) -> None:
        self._items: Inbox[Output] = Inbox(OUTBOX_ITEMS, evicts=False)
        self.put, self.put_last, self.close = self._items.put, self._items.put_last, self._items.close

    def drop(self, sequence: int, reason: DropReason) -> None:
        """Reports a drop."""

        def joins(item: Output) -> bool:
            if not isinstance(item, Dropped) or item.reason != reason:
                return False
            item.sequences.append(sequence)
            return True

        if not self._items.any(joins):
            self._items.put(Dropped(reason, [sequence]))

    def fail(self, sequence: int, error: FourfoldError) -> None:
        """Reports a failure of one frame."""
        self.put(Failed(sequence, code_of(error), str(error)))

    def get(self, seconds: float | None = None) -> Output:
        """See `Inbox.get`."""
        return self._items.get(seconds)

    def has_picture(self) -> bool:
        """Whether a frame waits that is upscaled already."""
        return self._items.any(lambda item: isinstance(item, Upscaling) and item.done.done())


def code_of(error: BaseException) -> str:
    """The slug of an error."""
    return error.code if isinstance(error, ServiceError | MediaError) else "internal"
