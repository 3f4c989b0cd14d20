"""Writes a picture's number and time into it, as black and white blocks that survive H.264 and upscaling; and reads them.

Two rows of blocks lie at the top, over the whole width: 32 bits of the number, 32 of the time, 16 that check both.
"""

import binascii
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8]

COLUMNS, ROWS = 40, 2
BITS = COLUMNS * ROWS
BLACK, WHITE = 16, 235  # luma, limited range
TICKS_PER_SECOND = 10_000  # so 32 bits last for five days


@dataclass(frozen=True)
class Mark:
    """What a picture says of itself.

    Attributes:
        number: counted from 0.
        ticks: when it was made, in 1 / TICKS_PER_SECOND by time.monotonic, the lowest 32 bits.
    """

    number: int
    ticks: int

    def age_seconds(self, now: float) -> float:
        """Since it was made, by time.monotonic."""
        return ((int(now * TICKS_PER_SECOND) - self.ticks) % 2**32) / TICKS_PER_SECOND


def mark(number: int, now: float) -> Mark:
    """Of a picture that is made now, by time.monotonic."""
    return Mark(number % 2**32, int(now * TICKS_PER_SECOND) % 2**32)


def block_side(width: int) -> int:
    """Of the blocks in a picture of this width, in pixels.

    Raises:
        ValueError: it is no multiple of COLUMNS.
    """
    side, rest = divmod(width, COLUMNS)
    if rest or not side:
        raise ValueError(f"a picture to be marked must be a multiple of {COLUMNS} pixels wide; this one has {width}")
    return side


def burn(luma: Luma, content: Mark) -> None:
    """Writes `content` into `luma` [H, W], in place."""
    side = block_side(luma.shape[1])
    data = content.number.to_bytes(4, "big") + content.ticks.to_bytes(4, "big")
    data += binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "big")
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(ROWS, COLUMNS)
    luma[: ROWS * side] = np.where(bits, WHITE, BLACK).astype(np.uint8).repeat(side, 0).repeat(side, 1)


def read(luma: Luma) -> Mark | None:
    """What is written in `luma` [H, W], of which the upper ROWS * W / COLUMNS lines are enough; None if it is not whole."""
    side = block_side(luma.shape[1])
    quarter = side // 4  # the middle of each block: its edges are blurred
    blocks = luma[: ROWS * side].reshape(ROWS, side, COLUMNS, side)[:, quarter : side - quarter, :, quarter : side - quarter]
    bits = blocks.mean(axis=(1, 3)) > (BLACK + WHITE) / 2
    data = np.packbits(bits).tobytes()
    if binascii.crc_hqx(data[:8], 0xFFFF) != int.from_bytes(data[8:], "big"):
        return None
    return Mark(int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big"))
