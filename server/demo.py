"""The first minute with Fourfold: draws a moving clip, upscales it, and puts the result beside plain interpolation."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.resize import UInt8Image, downscale, upscale
from server.media.frames import read_picture, write_clip
from server.videos import VideoOptions, upscale_video

WIDTH, HEIGHT, RATE, SECONDS = 480, 270, 30, 3
SUPERSAMPLING = 4
PART, README_PART = (40, 40, 540, 960), (130, 1230, 330, 440)  # of a frame, for the picture: top, left, height, width


def run_demo(folder: Path, say: Callable[[str], None], on_frame: Callable[[int, int | None], None]) -> dict[str, Any]:
    """Writes clip.mp4, upscaled.mp4 and side-by-side.png into `folder`; returns their paths and the run's figures."""
    folder.mkdir(parents=True, exist_ok=True)
    clip, result, picture = (folder / name for name in ("clip.mp4", "upscaled.mp4", "side-by-side.png"))
    write_clip(clip, (downscale(draw(i / RATE), SUPERSAMPLING) for i in range(RATE * SECONDS)), RATE)
    figures = upscale_video(clip, result, VideoOptions(), say, on_frame)
    _side_by_side(read_picture(clip, RATE), read_picture(result, RATE)).save(picture)
    return {"clip": str(clip), "result": str(result), "side_by_side": str(picture), **figures}


def main(target: Path) -> None:
    """`python -m server.demo FILE` draws the picture of the README, from the demo's own clip."""
    with tempfile.TemporaryDirectory() as folder:
        figures = run_demo(Path(folder), print, lambda *_: None)
        low, ours = (read_picture(Path(figures[name]), RATE) for name in ("clip", "result"))
        _side_by_side(low, ours, README_PART).save(target, quality=90, method=6)


def draw(seconds: float) -> UInt8Image:
    """One frame of the clip at four times its size, [4 * HEIGHT, 4 * WIDTH, 3]: text, thin lines, a wheel, a gradient."""
    width, height = WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING
    rows, columns = np.mgrid[0:height, 0:width]
    sky = np.stack([40 + rows * 60 // height, 70 + columns * 80 // width, 150 - rows * 70 // height], axis=-1)
    picture = Image.fromarray(sky.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for i in range(14):
        offset = (i * 150 + seconds * 90) % (width + 300) - 150
        pen.line([(offset, height), (offset + 260, height * 0.62)], fill=(230, 220, 190), width=3 + i % 4)
    _wheel(pen, (width * 0.76, height * 0.4), height * 0.28, seconds)
    text = f"FOURFOLD  270p to 1080p   {seconds:5.2f} s"
    pen.text((60 - seconds * 20, 70), text, font=ImageFont.load_default(72), fill=(255, 255, 255))
    small = "The quick brown fox jumps over the lazy dog. 0123456789"
    pen.text((60, 200 + seconds * 12), small, font=ImageFont.load_default(40), fill=(250, 230, 120))
    return np.asarray(picture)


def _wheel(pen: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, seconds: float) -> None:
    x, y = centre
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=(240, 240, 240), width=8)
    for spoke in range(24):
        angle = spoke * np.pi / 12 + seconds * 0.7
        pen.line([(x, y), (x + radius * np.cos(angle), y + radius * np.sin(angle))], fill=(255, 120 + spoke * 5, 90), width=5)


def _side_by_side(low: UInt8Image, ours: UInt8Image, within: tuple[int, int, int, int] = PART) -> Image.Image:
    """The same part of a frame, bicubic on the left, ours on the right."""
    scale = ours.shape[0] // low.shape[0]
    interpolated = upscale(low, scale)
    top, left, height, width = within
    part = (slice(top, top + height), slice(left, left + width))
    picture = Image.fromarray(np.hstack([interpolated[part], ours[part]]))
    pen = ImageDraw.Draw(picture)
    for x, label in ((20, "bicubic"), (width + 20, "Fourfold")):
        pen.text((x, height - 60), label, font=ImageFont.load_default(40), fill="white", stroke_width=3, stroke_fill="black")
    pen.line([(width, 0), (width, height)], fill="white", width=2)
    return picture


if __name__ == "__main__":
    main(Path(sys.argv[1]))
