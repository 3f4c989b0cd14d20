"""Trained weights on disk: safetensors files, loaded strictly or not at all."""

import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from models.errors import FourfoldError


class CheckpointError(FourfoldError):
    """A checkpoint does not fit its network; the message names the file and the tensors."""


def save_checkpoint(network: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes the weights of `network` to `path`, complete or not at all."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, partial, metadata)
    os.replace(partial, path)


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Fills `network` with the weights at `path`: every tensor, none left over, all of the right shape.

    Raises:
        CheckpointError: the file is no safetensors file or belongs to another network.
    """
    tensors = load_file(path)
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from error
