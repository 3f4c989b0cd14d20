"""XLSR has the paper's size, and any picture goes in."""

import pytest
import torch

from models.xlsr import XLSR, XLSRConfig


@pytest.mark.parametrize(("scale", "parameters"), [(2, 17_516), (3, 21_851), (4, 27_920)])
def test_parameters(scale: int, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in XLSR(XLSRConfig(scale=scale)).parameters()) == parameters


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (16, 24)])
@torch.no_grad()
def test_gives_a_picture_of_scale_times_the_size(scale: int, height: int, width: int) -> None:
    network = XLSR(XLSRConfig(scale=scale))
    network.tail.weight *= 100  # beyond black and white, so that the clip has something to do
    picture = network(torch.rand(2, 3, height, width))
    assert picture.shape == (2, 3, scale * height, scale * width)
    assert picture.min() >= 0 and picture.max() <= 1


@torch.no_grad()
def test_subpixels_are_the_unclipped_picture() -> None:
    network = XLSR(XLSRConfig(scale=4))
    rgb = torch.rand(1, 3, 6, 9)
    shuffled = torch.nn.functional.pixel_shuffle(network.subpixels(rgb).clamp(0, 1), 4)
    assert torch.equal(network(rgb), shuffled)
