"""One training run from a configuration file: what `fourfold train` does."""

import ctypes
import logging
from pathlib import Path

import torch

from models.errors import FourfoldError
from models.evaluation.squeeze import SqueezeDistance
from models.swift_srgan import Discriminator
from models.training.config import RunConfig, load_config
from models.training.content import MobileNetV2Features
from models.training.data import TrainingData
from models.training.objectives import AdversarialObjective, Adversary, PixelObjective
from models.training.trainer import Trainer, fresh_network


def train(config_path: Path, data: Path, run: Path, threads: int | None) -> float:
    """Trains, or goes on with the run in the folder `run`; returns the best validation score, as `Trainer.run`.

    Args:
        config_path: see `models.training.config`.
        data: the data directory; the configuration names folders and files in it.
        run: where state, best weights, log.csv and curve.png go.
        threads: CPU threads; None leaves the choice to PyTorch.

    Raises:
        FourfoldError: configuration, data or the folder's state are not what they should be.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("models.training").setLevel(logging.INFO)
    if threads:
        torch.set_num_threads(threads)
    _keep_freed_memory()
    config = load_config(config_path)
    objective, distance = _objective(config, data)
    try:
        pictures = TrainingData(data / config.data.images, config.data, config.network.scale, config.compression)
    except FileNotFoundError as error:
        raise FourfoldError(f"{error}; give --data or set FOURFOLD_DATA") from error
    return Trainer(config, pictures, run, objective, distance).run()


def _objective(config: RunConfig, data: Path) -> tuple[PixelObjective, SqueezeDistance | None]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, scale = fresh_network(config, device), config.network.scale
    if not config.adversarial:
        return PixelObjective(network, scale, config.training), None
    content = MobileNetV2Features(data / config.adversarial.content_weights, config.adversarial.content_blocks).to(device)
    distance = SqueezeDistance(data / config.adversarial.distance_weights)
    adversary = Adversary(Discriminator().to(device), config.adversarial.learning_rate)
    return AdversarialObjective(network, scale, config.training, config.adversarial, adversary, content), distance


def _keep_freed_memory() -> None:
    """Has glibc reuse large freed blocks: fresh pages for every tensor cost more than the arithmetic in it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: no block of its own mapping
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
