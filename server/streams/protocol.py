"""The words of `/v1/stream`: the start message, the header of frames, and what the service says of itself meanwhile.

Shared by both processes of a session: the api process, which talks to the client, and the worker, which looks into frames.
"""

import struct
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from server.errors import ServiceError
from server.media.live_formats import Format

KEYFRAME, END = 1, 2
"""The bits of `Header.flags`."""

DropReason = Literal["late", "queue_full"]

_HEADER = struct.Struct("<IIqII")
HEADER_BYTES = _HEADER.size

ARRIVAL = struct.Struct("<d")
"""Before each frame on its way to the worker: when it came, in seconds of `time.monotonic`."""

STAGES = struct.Struct("<4f")
"""Before each frame on its way back: the seconds that each of STAGE_NAMES took."""
STAGE_NAMES = ("decode", "queue", "infer", "encode")


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class InputWords(_Words):
    """What the client will send."""

    format: Format
    width: int | None = Field(default=None, gt=0, le=65535)
    height: int | None = Field(default=None, gt=0, le=65535)

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("give width and height together")
        if self.format in ("rgb24", "yuv420p") and self.width is None:
            raise ValueError(f"{self.format} does not say its size: give width and height")
        return self


class OutputWords(_Words):
    """What the client wants back."""

    format: Format = "jpeg"
    quality: int = Field(default=85, ge=1, le=100)


class Start(_Words):
    """The first message of a session."""

    type: Literal["start"]
    model: str | None = Field(default=None, max_length=64)
    scale: Literal[2, 3, 4] = 4
    fps: float = Field(default=60.0, gt=0, le=240)
    input: InputWords
    output: OutputWords = OutputWords()
    late: Literal["drop", "keep"] = "drop"


class LiveOptions(_Words):
    """What the api process tells the worker of a session."""

    start: Start
    model: str  # by its name
    pixels: int  # of an input picture, at most
    output_pixels: int  # of an output picture, at most
    frame_queue: int  # frames that may wait
    budget_seconds: float  # from a frame's arrival until it is late


def parse_start(text: str) -> Start:
    """Raises: ServiceError: bad_message, unsupported_type for a format we do not know, invalid for any other value."""
    try:
        return Start.model_validate_json(text)
    except ValidationError as error:
        raise _explained(error) from None


class Header(NamedTuple):
    """The first 24 bytes of a binary message, both ways."""

    sequence: int
    flags: int = 0
    pts_us: int = 0
    server_us: int = 0
    reserved: int = 0

    @property
    def ends(self) -> bool:
        """This is the last message of its side."""
        return bool(self.flags & END)

    def pack(self) -> bytes:
        return _HEADER.pack(*self)


def parse_header(message: bytes | memoryview, offset: int = 0) -> Header:
    """The header that a message has at `offset`.

    Raises:
        ServiceError: bad_message: it is too short.
    """
    if len(message) < offset + HEADER_BYTES:
        text = f"a frame is a header of {HEADER_BYTES} bytes and a payload; {len(message) - offset} bytes came"
        raise ServiceError("bad_message", text)
    return Header(*_HEADER.unpack_from(message, offset))


def ready(
    model: str, engine: str | None, precision: str | None, output: Format, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Frames can come, or pictures of another size will.

    Args:
        model: that upscales from here on.
        engine: that computes it, and
        precision: in which it does; None: not known yet.
        output: the format of answers.
        size: width and height of answers, in pixels, once they are known.
    """
    width, height = size or (None, None)
    return {
        "type": "ready",
        "model": model,
        "engine": engine,
        "precision": precision,
        "output": {"format": output, "width": width, "height": height},
    }


def dropped(sequences: list[int], reason: DropReason) -> dict[str, Any]:
    """These frames will not be answered."""
    return {"type": "dropped", "sequence": sequences, "reason": reason}


def failed(code: str, message: str, sequence: int | None = None) -> dict[str, Any]:
    """This frame could not be upscaled, and the session goes on; without a number: the session ends with this."""
    words = {"type": "error", "code": code, "message": message}
    return words if sequence is None else {**words, "sequence": sequence}


def _explained(error: ValidationError) -> ServiceError:
    """The first thing that is wrong: where, what it is, what it must be."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return ServiceError("bad_message", "the first message is the start message, a JSON object; this one is no JSON")
    place = ".".join(map(str, first["loc"])) or "start message"
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing" or not isinstance(first["input"], str | int | float):
        return ServiceError("invalid", f"{place}: {what}")
    code = "unsupported_type" if place.endswith("format") else "invalid"
    return ServiceError(code, f"{place} is {str(first['input'])[:80]!r}: {what}")
