"""Weights of classifiers that pictures are judged by: .npz files beside the pictures, loaded strictly or not at all."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.errors import FourfoldError


class WeightsError(FourfoldError):
    """A file of weights is missing or does not fit its network; the message names the file and the tensors."""


def load_weights(network: nn.Module, path: Path) -> None:
    """Fills `network` with the arrays of the .npz file at `path`; those of a classifier behind it are left over.

    Raises:
        WeightsError: the file cannot be read, or an array is missing or of another shape.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} cannot be read as an .npz file of weights: {error}") from error
    expected = network.state_dict()
    wrong = [name for name, tensor in expected.items() if name not in arrays or arrays[name].shape != tensor.shape]
    if wrong:
        raise WeightsError(f"{path} does not fit {type(network).__name__}: missing or of another shape: {', '.join(wrong)}")
    network.load_state_dict({name: torch.from_numpy(arrays[name]) for name in expected}, strict=True)
