"""The pixel shuffle of uint8 phases: from channels at low resolution to planes at high resolution.

Phases come with the channels last, so the bytes that lie side by side in an output row already lie side by side in memory. A
row of the output is then a strided copy of 2 or 4 byte words, which NumPy does at memory speed and without holding the GIL.
"""

import numpy as np
import numpy.typing as npt

from engines.runner import Plane, Planes


def deliver(results: list[npt.NDArray[np.uint8]], outputs: Planes, scale: int) -> None:
    """Copies what a graph gave for one frame into the caller's planes: phases are shuffled, whole planes copied.

    Args:
        results: [1, H, W, C] phases, or one array of a single picture for each plane.
        outputs: the planes to fill.
        scale: output pixels for one input pixel, in each direction.
    """
    if len(results) == 1 and results[0].shape[1:3] != outputs[0].shape[:2]:
        shuffle(results[0][0], outputs, scale)
        return
    for result, plane in zip(results, outputs, strict=True):
        np.copyto(plane, result.reshape(plane.shape))


def shuffle(phases: npt.NDArray[np.uint8], outputs: Planes, scale: int) -> None:
    """Spreads phases over the planes of a frame.

    Args:
        phases: [H, W, C] C-contiguous. Pictures: C = s * s * 3, ordered (dy, dx, colour). Frames (even scale): C = 1.5 * s * s,
            the Y phases ordered (dy, dx), then those of U and of V.
        outputs: rgb [s * H, s * W, 3], or y [s * H, s * W], u and v of half its sides; C-contiguous.
        scale: s.
    """
    if len(outputs) == 1:
        _spread(phases, outputs[0], scale)
        return
    chroma = (scale // 2) ** 2
    ends = (scale**2, scale**2 + chroma, scale**2 + 2 * chroma)
    for plane, start, end, factor in zip(outputs, (0, *ends), ends, (scale, scale // 2, scale // 2), strict=False):
        _spread(phases[:, :, start:end], plane, factor)


def _spread(phases: npt.NDArray[np.uint8], plane: Plane, factor: int) -> None:
    """[H, W, factor * run] -> `plane` of factor * H rows of W * run bytes."""
    height, width, channels = phases.shape
    run = channels // factor
    word = _word(run, phases.strides[1])
    source = phases.view(word).reshape(height, width, factor, -1)
    target = plane.reshape(height, factor, -1).view(word).reshape(height, factor, width, -1)
    np.copyto(target.transpose(0, 2, 1, 3), source)


def _word(run: int, stride: int) -> type[np.unsignedinteger]:
    """The widest word that fills a run of bytes a whole number of times, at a stride that it divides."""
    return next(word for word in (np.uint32, np.uint16, np.uint8) if not (run % word().itemsize or stride % word().itemsize))
