"""SwiftSRGAN's generator: its size, its range, its outputs."""

import pytest
import torch

from models.swift_srgan import SwiftSRGAN, SwiftSRGANConfig


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5)])
@torch.no_grad()
def test_gives_a_picture_of_scale_times_the_size(scale: int, height: int, width: int) -> None:
    network = SwiftSRGAN(SwiftSRGANConfig(scale=scale, blocks=2)).eval()
    picture = network(torch.rand(2, 3, height, width))
    assert picture.shape == (2, 3, scale * height, scale * width)
    assert picture.min() >= 0 and picture.max() <= 1


def test_defaults_are_the_papers_sizes() -> None:
    config = SwiftSRGANConfig()
    assert (config.scale, config.width, config.blocks) == (4, 64, 16)
    assert len(SwiftSRGAN(config).blocks) == 16
