"""Trained weights on disk: safetensors files, loaded strictly or not at all."""

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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
        CheckpointError: the file is missing, is no safetensors file, or belongs to another network.
    """
    _load(network, path, _read(path))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {error}") from error


def _load(network: nn.Module, path: Path, tensors: dict[str, Tensor]) -> None:
    if misfits := _misfits(network.state_dict(), tensors):
        raise CheckpointError(f"{path} does not fit {type(network).__name__}: {misfits}")
    network.load_state_dict(tensors, strict=True)


def load_start(network: nn.Module, path: Path) -> None:
    """Fills `network` with the weights at `path` as a start for training at another scale.

    As `load_checkpoint`, but the layer that makes the pixels (`tail`) stays as it is where its shape depends on the scale.

    Raises:
        CheckpointError: the file is missing, is no safetensors file, or is of another architecture.
    """
    tensors = _read(path)
    fresh = network.state_dict()
    tensors |= {
        name: fresh[name]
        for name in tensors
        if name.startswith("tail.") and name in fresh and tensors[name].shape != fresh[name].shape
    }
    _load(network, path, tensors)


def _misfits(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """What keeps the tensors `found` from being those `expected`, by name; empty if nothing does."""
    wrong = [
        f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    kinds = {"missing": missing, "left over": sorted(extra), "of another shape": wrong}
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names)


def read_metadata(path: Path) -> dict[str, str]:
    """What was written beside the weights at `path`.

    Raises:
        CheckpointError: the file is missing or no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {error}") from error


def read_header(path: Path) -> tuple[str, int]:
    """Architecture and scale that a checkpoint of ours was trained for.

    Raises:
        CheckpointError: the file is no safetensors file, or was not written by `save_checkpoint` in a training run.
    """
    header = read_metadata(path)
    try:
        return header["network"], int(header["scale"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint written by fourfold train ({error})") from error
