"""Upscaling a picture in pieces of which none is too large for an engine, with the result that it has in one piece.

Knows nothing of engines: it is handed something that upscales one tile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from models.resize import UInt8Image

MARGIN = 48
"""Input pixels around a tile that its result depends on: SwiftSRGAN, whose view is the widest, sees 40 in each direction."""

TILE_PIXELS = 1 << 18
"""Input pixels of a tile, margins included, at most. It bounds how long an engine is busy with one call, and its memory."""

UpscaleTile = Callable[[UInt8Image], UInt8Image]
"""[h, w, 3] -> [scale * h, scale * w, 3], which may be overwritten by the next call."""


def upscale(rgb: UInt8Image, scale: int, upscale_tile: UpscaleTile, tile_pixels: int = TILE_PIXELS) -> UInt8Image:
    """[H, W, 3] -> [scale * H, scale * W, 3], the same as in one piece. All tiles of a picture have one size."""
    height, width, _ = rgb.shape
    result = np.empty((height * scale, width * scale, 3), np.uint8)
    rows, columns = plan_tiles(height, width, tile_pixels)
    for row in rows:
        for column in columns:
            large = upscale_tile(rgb[row.start : row.stop, column.start : column.stop])
            result[row.kept(scale), column.kept(scale)] = large[row.kept_of_tile(scale), column.kept_of_tile(scale)]
    return result


@dataclass(frozen=True)
class Span:
    """Rows or columns of a tile, in input pixels from the picture's start."""

    start: int
    stop: int
    kept_start: int  # beyond these lies the margin, which another tile's result covers
    kept_stop: int

    def kept(self, scale: int) -> slice:
        """Where the kept part lies in the result."""
        return slice(self.kept_start * scale, self.kept_stop * scale)

    def kept_of_tile(self, scale: int) -> slice:
        """Where the kept part lies in the upscaled tile."""
        return slice((self.kept_start - self.start) * scale, (self.kept_stop - self.start) * scale)


def plan_tiles(height: int, width: int, tile_pixels: int) -> tuple[list[Span], list[Span]]:
    """Rows and columns of tiles that cover a picture with as few pixels as can be computed."""
    plans = []
    for rows in range(1, 2 + max(0, height // MARGIN - 2)):
        side = _side(height, rows)
        room = tile_pixels // side
        if room >= width or room > 2 * MARGIN:
            columns = 1 if room >= width else -(-(width - 2 * MARGIN) // (room - 2 * MARGIN))
            plans.append((rows * columns * side * _side(width, columns), rows, columns))
    _, rows, columns = min(plans)
    return _spans(height, rows), _spans(width, columns)


def _side(length: int, count: int) -> int:
    """The length of each of `count` spans that overlap by two margins."""
    return -(-(length + 2 * MARGIN * (count - 1)) // count)


def _spans(length: int, count: int) -> list[Span]:
    side = _side(length, count)
    starts = [number * (length - side) // max(1, count - 1) for number in range(count)]
    cuts = [0, *((before + side + after) // 2 for before, after in pairwise(starts)), length]
    return [Span(start, start + side, *kept) for start, kept in zip(starts, pairwise(cuts), strict=True)]
