"""MobileNetV2's features tell content apart and pass gradients on."""

from pathlib import Path

import torch
from torch.nn import functional as F

from models.evaluation.protocol import read_rgb
from models.training.content import MobileNetV2Features


def test_features_follow_the_content_not_the_position(data: Path) -> None:
    """A photograph is nearer to itself moved by two pixels than to another photograph; the shapes are those of table 2."""
    network = MobileNetV2Features(data / "weights" / "mobilenetv2_imagenet_bnfolded_f16.npz", [0, 6, 16])
    baby, bird = (
        torch.from_numpy(read_rgb(data / "test" / "set5" / f"{name}.png")[:194, :194].copy()).permute(2, 0, 1)[None] / 255
        for name in ("baby", "bird")
    )
    here, moved, other = (network(picture) for picture in (baby[..., :192, :192], baby[..., 2:, 2:], bird[..., :192, :192]))
    assert [tuple(features.shape) for features in here] == [(1, 32, 96, 96), (1, 32, 24, 24), (1, 160, 6, 6)]
    assert F.mse_loss(here[-1], moved[-1]) < 0.5 * F.mse_loss(here[-1], other[-1])


def test_gradients_reach_the_picture_but_not_the_weights(data: Path) -> None:
    network = MobileNetV2Features(data / "weights" / "mobilenetv2_imagenet_bnfolded_f16.npz", [1, 16])
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    torch.stack([features.square().mean() for features in network(picture)]).sum().backward()
    assert picture.grad is not None and picture.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
