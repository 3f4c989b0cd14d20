"""Folded networks give the unfolded picture, at borders too."""

import pytest
import torch
from torch import nn

from models.fold import FoldedXLSR, SubpixelSwiftSRGAN, fold_batch_norm
from models.swift_srgan import SwiftSRGAN, SwiftSRGANConfig
from models.xlsr import XLSR, XLSRConfig

SIZES = [(1, 1), (1, 7), (2, 3), (13, 9), (16, 24)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomise(network: nn.Module, factor: float) -> None:
    """Random weights and biases (fresh networks have biases of nought) at `factor` times the size of fresh weights."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight *= factor
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.2 * factor)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize(("height", "width"), SIZES)
@torch.no_grad()
def test_folded_xlsr_is_equal(scale: int, factor: float, height: int, width: int) -> None:
    network = XLSR(XLSRConfig(scale=scale)).eval()
    randomise(network, factor)
    rgb = torch.rand(2, 3, height, width)
    expected = network.subpixels(rgb)
    folded = FoldedXLSR(network)
    assert expected.std() > 0.05
    assert (folded.subpixels(rgb) - expected).abs().max() <= 1e-4 * max(1, expected.abs().max())
    assert (folded(rgb) - network(rgb)).abs().max() <= 1e-4


@torch.no_grad()
def test_folded_xlsr_is_a_copy() -> None:
    network = XLSR(XLSRConfig(scale=2))
    folded, rgb = FoldedXLSR(network), torch.rand(1, 3, 5, 5)
    before = folded.subpixels(rgb)
    for parameter in network.parameters():
        parameter.zero_()
    assert torch.equal(folded.subpixels(rgb), before)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 7)])
@torch.no_grad()
def test_folded_swift_srgan_is_equal(scale: int, height: int, width: int) -> None:
    network = SwiftSRGAN(SwiftSRGANConfig(scale=scale, blocks=4)).eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.05, 2)
        norm.weight.uniform_(0.3, 1.5)
        norm.bias.normal_()
    rgb = torch.rand(2, 3, height, width)
    expected = network(rgb)
    folded = fold_batch_norm(network)
    assert len(norms) == 9
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert (folded(rgb) - expected).abs().max() <= 1e-4
    assert torch.equal(network(rgb), expected)  # the original still has its normalisations


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("height", "width"), SIZES)
@torch.no_grad()
def test_subpixel_swift_srgan_is_equal(scale: int, height: int, width: int) -> None:
    network = SwiftSRGAN(SwiftSRGANConfig(scale=scale, width=16, blocks=2)).eval()
    randomise(network, 2.0)
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.9)
    rgb = torch.rand(2, 3, height, width)
    expected = network(rgb)
    assert expected.std() > 0.05
    assert (SubpixelSwiftSRGAN(network)(rgb) - expected).abs().max() <= 1e-4


def test_subpixel_swift_srgan_trains_the_network_it_was_given() -> None:
    network = SwiftSRGAN(SwiftSRGANConfig(width=16, blocks=1))
    rgb = torch.rand(2, 3, 8, 8)
    gradients = []
    for form in (network, SubpixelSwiftSRGAN(network)):
        network.zero_grad()
        form(rgb).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(list(network.parameters()))
    for plain, polyphase in zip(*gradients, strict=True):
        torch.testing.assert_close(polyphase, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max()) + 1e-9)
