"""Between two networks lies a network; between two architectures lies an error."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.checkpoint import CheckpointError, read_header, save_checkpoint
from models.interpolate import interpolate
from models.registry import build_network


def write(path: Path, scale: int, seed: int) -> Path:
    torch.manual_seed(seed)
    network = build_network("swift-srgan", scale)
    for statistics in network.buffers():
        if statistics.is_floating_point():
            statistics.uniform_(0.5, 1.5)
    save_checkpoint(network, path, {"network": "swift-srgan", "scale": str(scale)})
    return path


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_weight_lies_between(tmp_path: Path, share: float) -> None:
    first, second = (write(tmp_path / f"{seed}.safetensors", 2, seed) for seed in (1, 2))
    target = tmp_path / "between.safetensors"
    interpolate(first, second, share, target)
    assert read_header(target) == ("swift-srgan", 2)
    a, b, between = (load_file(path) for path in (first, second, target))
    assert not torch.equal(a["tail.pointwise.weight"], b["tail.pointwise.weight"])
    for name, tensor in between.items():
        torch.testing.assert_close(tensor.float(), (1 - share) * a[name].float() + share * b[name].float())


def test_networks_of_two_scales_are_refused(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{scale}.safetensors", scale, 1) for scale in (2, 4))
    with pytest.raises(CheckpointError, match="not of one architecture and scale"):
        interpolate(first, second, 0.5, tmp_path / "between.safetensors")
    assert not (tmp_path / "between.safetensors").exists()
