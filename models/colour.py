"""Y'CbCr and RGB: the coefficients that a frame's colour tags stand for.

Knows nothing of networks or codecs; the graphs take these coefficients as inputs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Matrix = Literal["bt601", "bt709", "bt2020"]
Range = Literal["limited", "full"]

LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {  # Kr, Kb
    "bt601": (0.299, 0.114),  # ITU-R BT.601-7, 2.5.1
    "bt709": (0.2126, 0.0722),  # ITU-R BT.709-6, 3.2
    "bt2020": (0.2627, 0.0593),  # ITU-R BT.2020-2, table 4, non-constant luminance
}


@dataclass(frozen=True)
class Colour:
    """How the numbers of a YUV frame stand for colours."""

    matrix: Matrix
    range: Range

    def rgb_to_yuv(self) -> npt.NDArray[np.float32]:
        """[3, 4]: (Y, U, V) as 0..255 codes = these coefficients times (R, G, B, 1) with R, G, B in 0..1."""
        kr, kb = LUMA_WEIGHTS[self.matrix]
        luma = np.array([kr, 1 - kr - kb, kb])
        blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - kb))
        red = (np.array([1, 0, 0]) - luma) / (2 * (1 - kr))
        luma_span, chroma_span, black = (219, 224, 16) if self.range == "limited" else (255, 255, 0)
        rows = np.stack([luma * luma_span, blue * chroma_span, red * chroma_span])
        return np.column_stack([rows, [black, 128, 128]]).astype(np.float32)

    def yuv_to_rgb(self) -> npt.NDArray[np.float32]:
        """[3, 4]: (R, G, B) in 0..1 = these coefficients times (Y, U, V, 1) with Y, U, V as 0..255 codes."""
        forward = self.rgb_to_yuv().astype(np.float64)
        inverse = np.linalg.inv(forward[:, :3])
        return np.column_stack([inverse, -inverse @ forward[:, 3]]).astype(np.float32)


def untagged(height: int) -> Colour:
    """What an untagged frame of `height` lines means: BT.601 below 720 lines, BT.709 from there, both limited."""
    return Colour("bt601" if height < 720 else "bt709", "limited")
