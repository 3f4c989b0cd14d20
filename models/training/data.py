"""Training pictures: decoded once into memory, cropped and augmented on demand.

Knows nothing of networks or losses. Low-resolution pictures are made of whole images by `models.resize`, as the evaluation
does, so that a crop near a border sees what it will see later.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from models.resize import UInt8Image, crop_to_multiple, downscale, resize
from models.training.config import DataConfig

log = logging.getLogger(__name__)

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Low resolution [N, 3, crop, crop] and high resolution [N, 3, scale * crop, scale * crop], RGB in 0..1."""


@dataclass(frozen=True)
class Pair:
    """One picture twice: `low` [H, W, 3] and `high` [scale * H, scale * W, 3], uint8 RGB."""

    low: UInt8Image
    high: UInt8Image


class TrainingData:
    """Random augmented crops of a folder of pictures, and the held-out pictures for validation."""

    def __init__(self, folder: Path, config: DataConfig, scale: int) -> None:
        """Decodes every picture below `folder`.

        Raises:
            FileNotFoundError: there is no usable picture in `folder`.
        """
        images = _load_images(folder, config.crop * scale)
        self.config, self.scale = config, scale
        self.validation = [_pair(image, scale) for image in images[:: config.validation_every]]
        held_out = set(range(0, len(images), config.validation_every))
        self.training = [
            _pair(_rescaled(image, factor), scale)
            for index, image in enumerate(images)
            for factor in config.rescale
            if index not in held_out and min(image.shape[:2]) * factor >= config.crop * scale
        ]
        if not self.training:
            raise FileNotFoundError(f"{folder} holds no picture of {config.crop * scale} pixels a side or more")
        areas = np.array([pair.low.shape[0] * pair.low.shape[1] for pair in self.training], np.float64)
        self._cumulative_area = np.cumsum(areas / areas.sum())
        log.info("%d training and %d validation pictures", len(self.training), len(self.validation))

    def batch(self, size: int, seed: tuple[int, ...]) -> Batch:
        """`size` crops that depend on `seed` alone, so that a resumed run sees what an unbroken one would have seen."""
        random = np.random.default_rng(seed)
        crops = [self._crop(random) for _ in range(size)]
        low, high = (np.stack(side).transpose(0, 3, 1, 2) for side in zip(*crops, strict=True))
        darkened = random.choice(self.config.intensity, size=(size, 1, 1, 1)).astype(np.float32) / np.float32(255)
        return low * darkened, high * darkened

    def _crop(self, random: np.random.Generator) -> tuple[UInt8Image, UInt8Image]:
        pair = self.training[int(np.searchsorted(self._cumulative_area, random.random()))]
        side, scale = self.config.crop, self.scale
        top, left = (int(random.integers(0, length - side + 1)) for length in pair.low.shape[:2])
        low = pair.low[top : top + side, left : left + side]
        high = pair.high[top * scale : (top + side) * scale, left * scale : (left + side) * scale]
        turns, mirrored = int(random.integers(4)), bool(random.integers(2))
        return _oriented(low, turns, mirrored), _oriented(high, turns, mirrored)


def _oriented(image: UInt8Image, turns: int, mirrored: bool) -> UInt8Image:
    turned = np.rot90(image, turns)
    return turned[:, ::-1] if mirrored else turned


def _pair(image: UInt8Image, scale: int) -> Pair:
    return Pair(downscale(image, scale), crop_to_multiple(image, scale))


def _rescaled(image: UInt8Image, factor: float) -> UInt8Image:
    height, width = (round(side * factor) for side in image.shape[:2])
    return image if factor == 1 else resize(image, height, width)


def _load_images(folder: Path, smallest: int) -> list[UInt8Image]:
    """All pictures below `folder` by name, but for broken ones and ones under `smallest` pixels a side: those are counted."""
    images: list[UInt8Image] = []
    skipped: list[str] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".png", ".webp"}):
        try:
            with Image.open(path) as file:
                image = np.asarray(file.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            skipped.append(f"{path.name} ({error})")
            continue
        if min(image.shape[:2]) < smallest:
            skipped.append(f"{path.name} (smaller than {smallest} pixels)")
        else:
            images.append(image)
    if skipped:
        log.warning("%d pictures left out: %s", len(skipped), "; ".join(skipped[:5]))
    if not images:
        raise FileNotFoundError(f"{folder} holds no picture of {smallest} pixels a side or more")
    return images
