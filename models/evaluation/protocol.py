"""Scoring an upscaler on a folder of pictures: the literature's protocol, the only one the project uses.

Knows nothing of how pictures are upscaled: it is handed a function.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from models.errors import FourfoldError
from models.evaluation.metrics import luma, psnr, shave, ssim
from models.resize import UInt8Image, crop_to_multiple, downscale

Upscale = Callable[[UInt8Image], UInt8Image]
"""[H, W, 3] uint8 RGB -> [scale * H, scale * W, 3] uint8 RGB."""

Distance = Callable[[UInt8Image, UInt8Image], float]
"""How different two [H, W, 3] uint8 RGB pictures look: 0 for equal ones, NaN for ones too small to tell."""

SQUEEZENET = Path("weights") / "squeezenet1_1_imagenet_f16.npz"
"""Below the data directory: what `squeeze_distance` is computed with."""

SUFFIXES = {".png", ".bmp", ".webp", ".jpg", ".jpeg"}


class EvaluationDataError(FourfoldError):
    """The pictures to evaluate on are missing or do not fit together; the message names the file."""


@dataclass(frozen=True)
class ImageScore:
    image: str
    psnr_y: float  # dB
    ssim_y: float
    squeeze_distance: float | None  # see `models.evaluation.squeeze`; None if not asked for, or the picture is too small


@dataclass(frozen=True)
class Evaluation:
    """Scores of one upscaler on one folder, with the averages that papers print."""

    scores: tuple[ImageScore, ...]

    @property
    def psnr_y(self) -> float:
        return float(np.mean([score.psnr_y for score in self.scores]))

    @property
    def ssim_y(self) -> float:
        return float(np.mean([score.ssim_y for score in self.scores]))

    @property
    def squeeze_distance(self) -> float | None:
        distances = [score.squeeze_distance for score in self.scores if score.squeeze_distance is not None]
        return float(np.mean(distances)) if distances else None


def evaluate(
    upscale: Upscale, scale: int, high_folder: Path, low_folder: Path | None = None, distance: Distance | None = None
) -> Evaluation:
    """Scores `upscale` on every picture of `high_folder`.

    High-resolution pictures are cropped to a multiple of `scale`. Low-resolution ones are read from `low_folder` under the same
    name, or made by `models.resize`. Luma, `scale` pixels of border cropped, averaged over pictures; `distance` sees colours.

    Raises:
        EvaluationDataError: no picture there, or a low-resolution one is missing or of the wrong size.
    """
    if not high_folder.is_dir():
        raise EvaluationDataError(f"{high_folder} is not a folder of pictures")
    paths = sorted(path for path in high_folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise EvaluationDataError(f"{high_folder} holds no picture ({', '.join(sorted(SUFFIXES))})")
    return Evaluation(tuple(_score(upscale, scale, path, low_folder, distance) for path in paths))


def _score(upscale: Upscale, scale: int, path: Path, low_folder: Path | None, distance: Distance | None) -> ImageScore:
    high = crop_to_multiple(read_rgb(path), scale)
    low = downscale(high, scale) if low_folder is None else _read_low(low_folder / path.name, high, scale)
    ours, truth = (shave(image, scale) for image in (upscale(low), high))
    luma_ours, luma_truth = luma(ours), luma(truth)
    seen = distance(ours, truth) if distance else math.nan
    return ImageScore(path.name, psnr(luma_ours, luma_truth), ssim(luma_ours, luma_truth), None if math.isnan(seen) else seen)


def _read_low(path: Path, high: UInt8Image, scale: int) -> UInt8Image:
    if not path.exists():
        raise EvaluationDataError(f"{path} is missing; the low-resolution folder needs a file of each high-resolution name")
    low = read_rgb(path)
    if low.shape[0] * scale != high.shape[0] or low.shape[1] * scale != high.shape[1]:
        raise EvaluationDataError(
            f"{path} is {low.shape[1]}x{low.shape[0]}; its high-resolution picture at x{scale} needs "
            f"{high.shape[1] // scale}x{high.shape[0] // scale}"
        )
    return low


def read_rgb(path: Path) -> UInt8Image:
    """The picture at `path` as [H, W, 3] uint8 RGB; grey ones are spread over three channels."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
