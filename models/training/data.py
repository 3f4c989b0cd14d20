"""Training pictures: decoded once into memory, cropped and augmented on demand.

Knows nothing of networks or losses. Low-resolution pictures are made of whole images by `models.resize`, as the evaluation
does, so that a crop near a border sees what it will see later.
"""

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.resize import UInt8Image, crop_to_multiple, downscale, resize
from models.training.compression import Pair, compressed_pairs
from models.training.config import CompressionConfig, DataConfig

log = logging.getLogger(__name__)

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Low resolution [N, 3, crop, crop] and high resolution [N, 3, scale * crop, scale * crop], RGB in 0..1."""

AHEAD = 4  # batches


class TrainingData:
    """Random augmented crops of a folder of pictures, and the held-out pictures for validation."""

    def __init__(self, folder: Path, config: DataConfig, scale: int, compression: CompressionConfig | None = None) -> None:
        """Decodes every picture below `folder`; with `compression`, validation pictures are compressed ones too.

        Raises:
            FileNotFoundError: there is no usable picture in `folder`.
        """
        self.config, self.scale = config, scale
        self.clean_share = 1 - compression.share if compression else 1.0
        smallest = config.crop * scale
        images = _load_images(folder, min(smallest, config.validation_side))
        # Not by what this run can crop: all stages of a network hold out the same pictures.
        candidates = [index for index, image in enumerate(images) if min(image.shape[:2]) >= config.validation_side]
        held_out = candidates[:: config.validation_every]
        used = [
            _rescaled(image, factor)
            for index, image in enumerate(images)
            for factor in config.rescale
            if index not in held_out and min(image.shape[:2]) * factor >= smallest
        ]
        self.validation = [_pair(images[index], scale) for index in held_out]
        self.training = _Pool([_pair(image, scale) for image in used])
        self.compressed = self.training
        if compression:
            log.info("compressing %d pictures %d times each", len(used), compression.versions)
            self.validation = _compressed([images[index] for index in held_out], scale, compression, 0)
            pairs = _compressed(used, scale, compression, 1)
            self.compressed = _Pool([pair for pair in pairs if min(pair.low.shape[:2]) >= config.crop])
        for pairs, side, use in (
            (self.validation, config.validation_side, "to hold out"),
            (self.training.pairs, smallest, "to train on"),
            (self.compressed.pairs, smallest, "to compress and train on"),
        ):
            if not pairs:
                raise FileNotFoundError(f"{folder} holds no picture of {side} pixels a side or more {use}")
        log.info("%d training and %d validation pictures", len(self.training.pairs), len(self.validation))

    def batches(self, size: int, seed: int, first: int) -> Iterator[Batch]:
        """Endless batches from number `first` on, made ahead by another thread: the trainer never waits for them."""
        with ThreadPoolExecutor(1) as thread:
            ahead = deque(thread.submit(self.batch, size, (seed, first + index)) for index in range(AHEAD))
            for number in count(first + AHEAD):
                batch = ahead.popleft().result()
                ahead.append(thread.submit(self.batch, size, (seed, number)))
                yield batch

    def batch(self, size: int, seed: tuple[int, ...]) -> Batch:
        """`size` crops that depend on `seed` alone, so that a resumed run sees what an unbroken one would have seen."""
        random = np.random.default_rng(seed)
        crops = [self._crop(random) for _ in range(size)]
        low, high = (np.stack(side).transpose(0, 3, 1, 2) for side in zip(*crops, strict=True))
        darkened = random.choice(self.config.intensity, size=(size, 1, 1, 1)).astype(np.float32) / np.float32(255)
        return low * darkened, high * darkened

    def _crop(self, random: np.random.Generator) -> tuple[UInt8Image, UInt8Image]:
        pool = self.training if random.random() < self.clean_share else self.compressed
        pair = pool.draw(random)
        side, scale = self.config.crop, self.scale
        top, left = (int(random.integers(0, length - side + 1)) for length in pair.low.shape[:2])
        low = pair.low[top : top + side, left : left + side]
        high = pair.high[top * scale : (top + side) * scale, left * scale : (left + side) * scale]
        turns, mirrored = int(random.integers(4)), bool(random.integers(2))
        return _oriented(low, turns, mirrored), _oriented(high, turns, mirrored)


class _Pool:
    """Pairs to draw from, each as often as its area deserves."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs
        areas = np.array([pair.low.shape[0] * pair.low.shape[1] for pair in pairs], np.float64)
        self._cumulative_area = np.cumsum(areas) / max(1.0, areas.sum())

    def draw(self, random: np.random.Generator) -> Pair:
        return self.pairs[int(np.searchsorted(self._cumulative_area, random.random()))]


def _compressed(images: list[UInt8Image], scale: int, config: CompressionConfig, seed: int) -> list[Pair]:
    """Frames of `config.versions` clips of each picture."""
    pairs = []
    for index, image in enumerate(images):
        random = np.random.default_rng((seed, index))
        for _ in range(config.versions):
            pairs += compressed_pairs(image, scale, config, random)
    return pairs


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
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:  # all that Pillow raises for bad files
            skipped.append(f"{path.name} ({error})")
            continue
        if min(image.shape[:2]) < smallest:
            skipped.append(f"{path.name} (smaller than {smallest} pixels)")
        else:
            images.append(image)
    if skipped:
        log.warning("%d pictures left out: %s", len(skipped), "; ".join(skipped[:5]))
    return images
