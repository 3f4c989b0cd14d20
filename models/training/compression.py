"""Low-resolution pictures as a live stream delivers them: through libx264, with motion.

A picture on its own would only ever become a key frame. Here a camera pans over it, each frame is made small by the
evaluation's own resize, and the clip is encoded as a streaming operator would.
"""

import io
from dataclasses import dataclass

import av
import numpy as np

from models.resize import UInt8Image, downscale
from models.training.config import CompressionConfig

FRAMES = 6  # of a clip: a key frame and what is predicted from it
KEPT = 2  # of them, drawn at random
SPEED = 6  # at most, in high-resolution pixels a frame and direction


@dataclass(frozen=True)
class Pair:
    """One picture twice: `low` [H, W, 3] and `high` [scale * H, scale * W, 3], uint8 RGB."""

    low: UInt8Image
    high: UInt8Image


def compressed_pairs(image: UInt8Image, scale: int, config: CompressionConfig, random: np.random.Generator) -> list[Pair]:
    """`KEPT` frames of a clip that pans over `image` [H, W, 3]; the low-resolution sides have gone through H.264.

    Rate factor, preset and motion are drawn from `random`. Sides become multiples of two low-resolution pixels; [] for a
    picture that is too small to pan over.
    """
    margin = (FRAMES - 1) * SPEED
    height, width = ((side - margin) // (2 * scale) * 2 * scale for side in image.shape[:2])
    if min(height, width) < 16 * scale:
        return []
    speed = random.integers(-SPEED, SPEED + 1, size=2)
    start = np.where(speed < 0, -speed * (FRAMES - 1), 0)
    windows = []
    for index in range(FRAMES):
        top, left = start + index * speed
        windows.append(image[top : top + height, left : left + width])
    low, high = config.crf[0], config.crf[1]
    options = {"crf": str(random.integers(low, high + 1)), "preset": str(random.choice(config.presets))}
    frames = through_h264([downscale(window, scale) for window in windows], options)
    kept = random.choice(FRAMES, KEPT, replace=False)
    return [Pair(frames[index], windows[index]) for index in kept]


def through_h264(frames: list[UInt8Image], options: dict[str, str]) -> list[UInt8Image]:
    """Encodes and decodes `frames`, [H, W, 3] uint8 RGB of one even size, as 4:2:0 H.264 with libx264's `options`."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="h264") as container:
        output = container.add_stream("libx264", rate=30, options=options | {"threads": "1"})
        output.height, output.width = frames[0].shape[:2]
        output.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(output.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(output.encode(None))
    stream.seek(0)
    with av.open(stream, "r") as source:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in source.decode(video=0)]
