"""Plain interpolation by FFmpeg's swscale: what a picture is upscaled with where there is no network, or no engine."""

from collections.abc import Callable
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from engines.runner import Planes
from models.registry import Form
from server.media._planes import FORMATS, copy_planes, planes_of

Interpolation = Literal["BICUBIC", "LANCZOS"]


def swscaler(
    i420: npt.NDArray[np.uint8], scale: int, interpolation: Interpolation, threads: int
) -> Callable[[], npt.NDArray[np.uint8]]:
    """A function that upscales one picture and gives the new luma plane, uint8 [rows, at least columns].

    Args:
        i420: uint8 [height * 3 / 2, width], both sides even: the rows of y, then u, then v.
        scale: output pixels for one input pixel, in each direction.
        interpolation: swscale's name of it.
        threads: of swscale.
    """
    frame, reformatter = VideoFrame.from_ndarray(i420, format="yuv420p"), VideoReformatter()
    width, height = frame.width * scale, frame.height * scale

    def upscale() -> npt.NDArray[np.uint8]:
        scaled = reformatter.reformat(frame, width, height, interpolation=interpolation, threads=threads)
        luma = scaled.planes[0]
        return np.frombuffer(luma, np.uint8).reshape(-1, luma.line_size)  # type: ignore[call-overload, no-any-return]

    return upscale


class Bicubic:
    """Upscales frames of one form and size; one thread at a time."""

    def __init__(self, form: Form, scale: int) -> None:
        self._form, self._scale = form, scale
        self._split, self._reformatter, self._join = (VideoReformatter() for _ in range(3))

    def upscale(self, inputs: Planes, outputs: Planes) -> None:
        """Fills the outputs; see `engines.runner.Planes`."""
        frame = self._frame(inputs)
        if self._form == "rgb":  # by planes: the same numbers in a third of the time
            scaled = self._scaled(self._split.reformat(frame, format="gbrp", threads=1))
            large = self._join.reformat(scaled, format=FORMATS["rgb"], threads=1)
        else:
            large = self._scaled(frame)
        copy_planes(planes_of(large), outputs)

    def _scaled(self, frame: VideoFrame) -> VideoFrame:
        width, height = frame.width * self._scale, frame.height * self._scale
        return self._reformatter.reformat(frame, width, height, interpolation="BICUBIC", threads=1)

    def _frame(self, inputs: Planes) -> VideoFrame:
        height, width = inputs[0].shape[:2]
        frame = VideoFrame(width, height, FORMATS[self._form])
        copy_planes(inputs, planes_of(frame))
        return frame


def ffmpeg_version() -> str:
    """Of the libraries that PyAV brings."""
    return str(av.ffmpeg_version_info)
