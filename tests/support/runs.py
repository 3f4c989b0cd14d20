"""A training run that takes a second: three drawn pictures, six steps."""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from models.training.config import DataConfig, NetworkConfig, RunConfig, TrainingConfig
from models.training.data import TrainingData
from models.training.objectives import PixelObjective
from models.training.trainer import Trainer, fresh_network
from tests.support.frames import natural

TINY = RunConfig(
    network=NetworkConfig("xlsr", 2, start=""),
    data=DataConfig(images="train", validation_every=3, validation_side=16, crop=8, rescale=[1.0, 0.5], intensity=[1.0, 0.7]),
    training=TrainingConfig(
        steps=6,
        batch=2,
        seed=1,
        learning_rate=2e-3,
        warmup_steps=2,
        final_learning_rate=1e-5,
        charbonnier_epsilon=0.1,
        clip_penalty=0.1,
        gradient_norm=0.5,
        weight_decay=0.0,
        ema_decay=0.5,
        validate_steps=3,
        checkpoint_seconds=0.0,  # after every step
        bfloat16=False,
        compile=False,
    ),
)


class AverageColours(nn.Module):
    """Stands for a content network, without weights."""

    def forward(self, rgb: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(rgb, 4)]


def with_training(**changes: float | bool) -> RunConfig:
    """The tiny run with some of its training settings changed."""
    return replace(TINY, training=replace(TINY.training, **changes))  # type: ignore[arg-type]


def trainer(config: RunConfig, data: TrainingData, folder: Path) -> Trainer:
    """The trainer of `config` with the pixel loss, on the CPU."""
    network = fresh_network(config, torch.device("cpu"))
    return Trainer(config, data, folder, PixelObjective(network, config.network.scale, config.training))


def draw_pictures(folder: Path) -> Path:
    """Three pictures; the first is held out for validation."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (height, width) in enumerate([(40, 48), (37, 51), (64, 33)]):
        Image.fromarray(natural(height, width, seed=index)).save(folder / f"{index}.png")
    return folder
