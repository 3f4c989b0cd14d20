"""What the service answers, as plain objects. Fields that a newer service adds are left out here and do no harm."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

ImageFormat = Literal["png", "jpeg", "webp"]
FrameFormat = Literal["jpeg", "png", "rgb24", "yuv420p", "h264"]
RelayState = Literal["starting", "running", "holding", "ended", "failed"]


class Parsed:
    """An object that is made from one of the service's."""

    @classmethod
    def parsed(cls, words: dict[str, Any]) -> Self:
        """From JSON; what the service does not say is None."""
        return cls(**{field.name: words.get(field.name) for field in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Picture:
    """An upscaled picture."""

    data: bytes  # of the file
    format: ImageFormat
    model: str
    engine: str
    precision: str
    server_ms: float  # that the service took
    alpha_dropped: bool  # the picture was transparent, and its new type cannot be

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file."""
        Path(path).write_bytes(self.data)

    def __repr__(self) -> str:
        return f"<Picture {self.format}, {len(self.data)} bytes, by {self.model}>"


@dataclass(frozen=True)
class VideoProgress:
    """How far a video is."""

    phase: Literal["uploading", "queued", "running", "downloading"]
    fraction: float  # of this phase, 0 to 1; 0 while the service does not know how long the video is
    frames: int = 0  # that are upscaled
    fps: float = 0.0  # at which they were


@dataclass(frozen=True)
class Video(Parsed):
    """A video that was upscaled."""

    id: str
    frames: int
    fps: float
    model: str
    scale: int
    result: dict[str, Any]  # what `fourfold video --json` prints
    notes: list[str]  # what was converted, left out or chosen


@dataclass(frozen=True)
class Model(Parsed):
    """A model at one scale."""

    name: str
    scale: int
    parameters: int
    psnr_y: dict[str, float]  # in dB by test set
    bytes: int


@dataclass(frozen=True)
class Engine(Parsed):
    """A backend that computes models."""

    engine: str
    works: bool
    version: str | None
    precisions: dict[str, str]  # that work, the fastest first, with the reason for their places
    reason: str | None  # why it does not work


@dataclass(frozen=True)
class Engines:
    """All backends of a service."""

    engines: list[Engine]
    model: str  # that was timed
    trials: list[dict[str, Any]]  # the fastest first; empty before they were timed
    auto: str | None  # which engine serves when none is named, and why


@dataclass(frozen=True)
class Relay(Parsed):
    """A live relay between two addresses."""

    id: str
    state: RelayState
    reason: str | None  # why it ended
    error: dict[str, str] | None  # code and message, if it failed
    source: str
    target: str
    model: str
    fps_in: float | None
    fps_out: float | None
    latency_ms: dict[str, float | None]  # p50, p95, p99
    drops: dict[str, int]  # frames by reason
    reconnects: int

    @property
    def over(self) -> bool:
        """It has ended, and will not go on."""
        return self.state in ("ended", "failed")
