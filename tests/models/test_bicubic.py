"""The network that interpolates is the interpolation of `models.resize`."""

import numpy as np
import pytest
import torch

from models import resize
from models.bicubic import Bicubic, BicubicConfig


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (3, 2), (24, 37)])
@torch.no_grad()
def test_equals_the_resize_up_to_its_roundings(scale: int, height: int, width: int) -> None:
    # Far enough from black and white that nothing is clipped between the two passes.
    image = np.random.default_rng(0).integers(64, 192, (height, width, 3), dtype=np.uint8)
    rgb = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
    picture = Bicubic(BicubicConfig(scale=scale))(rgb)[0].permute(1, 2, 0).numpy() * 255
    # Two roundings of half a level; the second pass weights the first's by at most 1.25, the sum of its weights' sizes.
    assert np.abs(picture - resize.upscale(image, scale)).max() <= 0.5 + 0.5 * 1.25 + 0.01


@torch.no_grad()
def test_a_hard_edge_stays_in_range() -> None:
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    network = Bicubic(BicubicConfig(scale=4))
    assert network.subpixels(edge).max() > 1
    assert network(edge).max() == 1 and network(edge).min() == 0


def test_has_nothing_to_train_or_store() -> None:
    network = Bicubic(BicubicConfig())
    assert not list(network.parameters()) and not network.state_dict()
