"""What the colour tags of a stream mean, by the numbers of ITU-T H.273, which FFmpeg shares.

Knows nothing of files, decoders or encoders.
"""

from dataclasses import dataclass

from models.colour import Colour, Matrix, untagged

UNSPECIFIED = 2
LIMITED, FULL = 1, 2  # color_range; 0 is unspecified
RGB = 0
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

_MATRICES: dict[int, Matrix] = {1: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}
_FAMILIES: dict[Matrix, tuple[int, int, int]] = {"bt601": (6, 6, 6), "bt709": (1, 1, 1), "bt2020": (9, 9, 14)}


@dataclass(frozen=True)
class Tags:
    """The four colour tags of a stream, as the numbers of H.273; the range as FFmpeg's (1 limited, 2 full)."""

    colorspace: int
    color_primaries: int
    color_trc: int
    color_range: int

    def colour(self) -> Colour:
        """What these tags, once resolved, say about the numbers in a frame."""
        return Colour(_MATRICES[self.colorspace], "full" if self.color_range == FULL else "limited")


def resolve(raw: Tags, height: int, full: bool) -> Tags:
    """The tags of `raw`, with what we assume in place of what is missing.

    An untagged stream gets the tags that it was read by: players guess by height, and the height is about to change.

    Args:
        raw: as the decoder gives them.
        height: of the picture, pixels.
        full: the pixel format itself (yuvj420p) says full range.
    """
    color_range = FULL if full or raw.color_range == FULL else LIMITED
    if raw.colorspace in _MATRICES:
        return Tags(raw.colorspace, raw.color_primaries, raw.color_trc, color_range)
    matrix, primaries, transfer = _FAMILIES[untagged(height).matrix]
    return Tags(matrix, _known(raw.color_primaries, primaries), _known(raw.color_trc, transfer), color_range)


def assumed(height: int) -> Tags:
    """What frames of `height` lines mean where nothing is said, and nothing can be."""
    return resolve(Tags(UNSPECIFIED, UNSPECIFIED, UNSPECIFIED, 0), height, full=False)


def _known(tag: int, assumed: int) -> int:
    return assumed if tag in (0, UNSPECIFIED) else tag
