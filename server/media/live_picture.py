"""What is said of a live picture before it is decoded into an engine's memory: its size, and whether that is allowed.

Knows nothing of formats or codecs.
"""

from dataclasses import dataclass
from typing import Protocol

from engines.runner import Planes
from models.colour import Colour
from models.registry import Form
from server.media import _tags
from server.media.errors import DimensionsError

MIN_SIDE = 16
"""Input pixels each way: encoders and networks do little good below."""


@dataclass(frozen=True)
class Shape:
    """What an engine is opened for, and what an output is planned for."""

    form: Form
    width: int  # input pixels
    height: int
    tags: _tags.Tags | None = None  # yuv420 only

    @property
    def colour(self) -> Colour | None:
        return None if self.tags is None else self.tags.colour()


@dataclass(frozen=True)
class FrameLimits:
    """How large a frame may be."""

    scale: int
    pixels: int  # of the input
    output_pixels: int

    def check(self, width: int, height: int) -> None:
        """Raises: DimensionsError: a picture of this size is not upscaled."""
        if min(width, height) < MIN_SIDE:
            raise DimensionsError(f"the picture is {width}x{height}; at least {MIN_SIDE} pixels are needed each way")
        if width * height > self.pixels:
            raise DimensionsError(f"the picture is {width}x{height}; at most {self.pixels} pixels are upscaled; scale it down")
        if width * height * self.scale**2 > self.output_pixels:
            size = f"{width * self.scale}x{height * self.scale}"
            raise DimensionsError(
                f"the result would be {size}; at most {self.output_pixels} pixels are made; take a smaller scale"
            )


class Picture(Protocol):
    """A picture whose size is known and allowed."""

    @property
    def shape(self) -> Shape: ...

    def fill(self, inputs: Planes) -> None:
        """Decodes into planes of its shape.

        Raises:
            UnreadableError, ServiceError: it is damaged.
        """
        ...
