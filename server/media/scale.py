"""Plain interpolation by FFmpeg's swscale: what a video is upscaled with where there is no network."""

from collections.abc import Callable
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

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


def ffmpeg_version() -> str:
    """Of the libraries that PyAV brings."""
    return str(av.ffmpeg_version_info)
