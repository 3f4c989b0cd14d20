"""FFmpeg's frames and our planes, one as the other, without a copy where that is possible.

Knows nothing of codecs or files.
"""

from typing import Any, cast

import numpy as np
from av.video.frame import VideoFrame

from engines.runner import Plane, Planes
from models.registry import Form

FORMATS: dict[Form, str] = {"rgb": "rgb24", "yuv420": "yuv420p"}
"""FFmpeg's names of the pixel formats."""


def planes_of(frame: VideoFrame) -> Planes:
    """Views of a frame in one of `FORMATS`, shaped as `engines.runner.Planes`; rows may lie further apart than their length."""
    return tuple(_view(plane, 3 if frame.format.name == "rgb24" else 1) for plane in frame.planes)


def frame_of(picture: Plane, form: Form) -> VideoFrame:
    """A frame of a slot's picture: uint8 [H, W, 3] for rgb, [1.5 * H, W] with even sides for yuv420.

    It may lie in the picture's own memory, so use it before that is written again.
    """
    # PyAV's wrapper miscounts the rows of a height that is not a multiple of 4.
    wraps = form == "rgb" or picture.shape[0] % 6 == 0
    wrap = VideoFrame.from_numpy_buffer if wraps else VideoFrame.from_ndarray
    return wrap(picture, FORMATS[form])


def copy_planes(source: Planes, target: Planes) -> None:
    """Copies plane by plane as much as fits the target."""
    for one, other in zip(source, target, strict=True):
        np.copyto(other, one[tuple(map(slice, other.shape))])


def _view(plane: Any, channels: int) -> Plane:
    rows = np.frombuffer(cast(Any, plane), np.uint8)[: plane.line_size * plane.height].reshape(plane.height, plane.line_size)
    rows = rows[:, : plane.width * channels]
    return rows if channels == 1 else rows.reshape(plane.height, plane.width, channels)
