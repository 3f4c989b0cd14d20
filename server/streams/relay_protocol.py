"""What the api process and the worker of a relay say to each other. The worker asks for nothing: it is told once what to do.

From the worker, JSON messages:

    {"type": "state", "state": STATE, "reason": why or null}       whenever it changes
    {"type": "incoming"}                                           the source sends, for the first time or after a pause
    {"type": "source", "width", "height", "fps", "codec", "audio", "deinterlaced"}
                                                                   each time that a source was opened or changed its size
    {"type": "output", "width", "height", "encoder", "engine", "precision"}
    {"type": "frames", "delivered": [[latency, decode, queue, infer, encode, send], …], "held": n, "in": n,
                       "dropped": {REASON: n}, "failed": n, "under_way": n}
                                                                   several times a second, of the time since the last
    {"type": "model", "model", "reason", "engine", "precision"}    frames are upscaled by another model from now on
    {"type": "reconnect", "side": "source" or "target", "reason"}  a connection ended and is tried again
    {"type": "ended", "reason"}                                    the source is over; the last message
    {"type": "error", "code", "message"}                           it cannot go on; the last message

To the worker: {"type": "stop"}: what was decoded is sent, then "ended" comes. Hanging up stops it at once.
"""

from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field

RelayState = Literal["starting", "running", "holding", "ended", "failed"]
"""`starting`: no picture was sent yet. `running`: frames come. `holding`: none come, the last one is shown."""

RelayDrop = Literal["burst", "late", "queue_full", "stale", "target", "unreadable", "lost"]
"""Why a frame of a relay is not delivered:

burst: it came in a heap after a (new) connection, and only brings the relay up to the present.
late: it missed its deadline in the engine, or before.
queue_full: too many waited.
stale: something newer was sent already, or its time had passed when it was decoded.
target: the target did not take it, or was not there.
unreadable: no picture came of it.
lost: the process of the relay ended with it.
"""

SourceReason = Literal["timeout", "ended", "unreachable", "unreadable", "target_down", "target_slow"]
"""Why a connection is made again."""


class Endpoint(BaseModel):
    """Where to connect to: the address was looked up and allowed by the api process, and no other one is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str  # rtmp:, rtmps: or, as a source of the command line only, file:
    address: str | None = None  # the IP address that stands for the URL's host

    def __str__(self) -> str:
        """The URL without what may be secret in it."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class RelayOptions(BaseModel):
    """What the worker of a relay is started with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Endpoint
    target: Endpoint
    model: str  # by its name
    scale: Literal[2, 3, 4]
    encoder: str = "auto"
    bitrate: int | None = None  # bit/s; None: by the size and the rate of the pictures
    keyframe_seconds: float = 2.0
    pixels: int  # of an input picture, at most
    output_pixels: int  # of an output picture, at most
    frame_queue: int = 8
    budget_seconds: float = 0.25
    hold_seconds: float = 30.0  # that the last frame is shown for while the source is away
    source_timeout_seconds: float = 5.0  # without a byte, after which the source is connected again
    target_timeout_seconds: float = 5.0  # that the target may take for a handshake or for one frame
    realtime: bool = Field(default=False, description="The source is a file that is read at the speed it plays at.")


def message(kind: str, **values: Any) -> dict[str, Any]:
    """A message of the worker."""
    return {"type": kind, **values}
