"""One training run from a configuration file: what `fourfold train` does."""

import logging
from pathlib import Path

import torch

from models.errors import FourfoldError
from models.training.config import load_config
from models.training.data import TrainingData
from models.training.trainer import Trainer


def train(config_path: Path, data: Path, run: Path, threads: int | None) -> float:
    """Trains, or goes on with the run in the folder `run`; returns the best validation PSNR-Y in dB.

    Args:
        config_path: see `models.training.config`.
        data: the data directory; the configuration names a folder in it.
        run: where state, best weights and log.csv go.
        threads: CPU threads; None leaves the choice to PyTorch.

    Raises:
        FourfoldError: configuration, data or the folder's state are not what they should be.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("models.training").setLevel(logging.INFO)
    if threads:
        torch.set_num_threads(threads)
    config = load_config(config_path)
    try:
        pictures = TrainingData(data / config.data.images, config.data, config.network.scale)
    except FileNotFoundError as error:
        raise FourfoldError(f"{error}; give --data or set FOURFOLD_DATA") from error
    return Trainer(config, pictures, run).run()
