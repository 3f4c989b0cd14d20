"""Single RGB pictures in and out of video files: for the demo's own clip and for looking at results."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

from models.resize import UInt8Image
from server.media.errors import UnreadableError

BT601 = 5  # as libswscale and H.264 number it: BT.470BG
LIMITED = 1


def write_clip(path: Path, pictures: Iterable[UInt8Image], rate: int) -> None:
    """Encodes `pictures` [H, W, 3] uint8 RGB, all of one even size, as H.264 in MP4 at `rate` frames a second."""
    with av.open(f"file:{path}", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED
        stream.codec_context.color_primaries = stream.codec_context.color_trc = 6
        for i, picture in enumerate(pictures):
            if i == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            converted = frame.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG")
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


def read_picture(path: Path, number: int) -> UInt8Image:
    """Frame `number`, counted from 0, of our own clip at `path` as [H, W, 3] uint8 RGB.

    Raises:
        UnreadableError: it has fewer frames.
    """
    with av.open(f"file:{path}") as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i == number:
                return np.asarray(frame.to_ndarray(format="rgb24"))
    raise UnreadableError(f"it has no frame {number}", path)
