"""The adversarial game on distributions whose answer is known, and what each objective trains."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.swift_srgan import Discriminator, SwiftSRGAN, SwiftSRGANConfig
from models.training.config import AdversarialConfig
from models.training.objectives import AdversarialObjective, Adversary, PixelObjective
from tests.support.runs import TINY, AverageColours


class Line(nn.Module):
    """z -> a z + b: all normal distributions, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.deviation, self.mean = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        return z * self.deviation + self.mean


def perceptron() -> nn.Sequential:
    hidden = [nn.Linear(1, 32), nn.LeakyReLU(), nn.Linear(32, 32), nn.LeakyReLU(), nn.Linear(32, 32), nn.LeakyReLU()]
    return nn.Sequential(*hidden, nn.Linear(32, 1))


def mixture(size: int) -> Tensor:
    left, right = -3.2 + 1.75 * torch.randn(size, 1), 5.5 + 3.25 * torch.randn(size, 1)
    return torch.where(torch.rand(size, 1) < 0.5, left, right)


def play(generator: nn.Module, draw: Callable[[int], Tensor], rounds: int, learning_rate: float) -> Tensor:
    """Trains `generator` against an adversary that sees what `draw` gives; returns 100,000 samples of its average."""
    torch.manual_seed(0)
    adversary = Adversary(perceptron(), learning_rate=2e-3)
    optimizer = torch.optim.Adam(generator.parameters(), lr=learning_rate)
    average = torch.optim.swa_utils.AveragedModel(generator, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    slower = [torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, rounds) for o in (optimizer, adversary.optimizer)]
    for _ in range(rounds):
        adversary.learn(draw(256), generator(torch.randn(256, 1)))
        optimizer.zero_grad()
        adversary.verdict(generator(torch.randn(256, 1))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update_parameters(generator)
        for schedule in slower:
            schedule.step()
    with torch.no_grad():
        samples: Tensor = average(torch.randn(100_000, 1))
    return samples


def test_the_game_finds_a_normal_distribution() -> None:
    samples = play(Line(), lambda size: 2.5 + 3.25 * torch.randn(size, 1), 3000, 1e-2)
    assert samples.mean().item() == pytest.approx(2.5, abs=0.3)
    assert samples.std().item() == pytest.approx(3.25, abs=0.3)


def test_the_game_finds_a_mixture_of_two() -> None:
    samples, truth = play(perceptron(), mixture, 6000, 1e-3), mixture(100_000)
    normal = truth.mean() + truth.std() * torch.randn(100_000, 1)

    def distance(other: Tensor) -> float:
        levels = torch.linspace(0.05, 0.95, 19)
        return float((other[:, 0].quantile(levels) - truth[:, 0].quantile(levels)).abs().mean())

    assert distance(samples) < 0.4 < 0.8 < distance(normal)


ADVERSARIAL = AdversarialConfig(
    1e-3, 0.1, content_blocks=[16], content_weights="", distance_weights="", learning_rate=1e-3, head_start=0
)


def adversarial(network: nn.Module) -> AdversarialObjective:
    """With average colours instead of MobileNetV2, so that it needs no weights."""
    adversary = Adversary(Discriminator(), ADVERSARIAL.learning_rate)
    return AdversarialObjective(network, 2, TINY.training, ADVERSARIAL, adversary, AverageColours())


@pytest.fixture
def network() -> SwiftSRGAN:
    torch.manual_seed(0)
    return SwiftSRGAN(SwiftSRGANConfig(scale=2, width=8, blocks=1))


@pytest.mark.parametrize("make", [adversarial, lambda network: PixelObjective(network, 2, TINY.training)], ids=["gan", "pixel"])
def test_each_weight_of_the_network_learns(network: SwiftSRGAN, make: Callable[[nn.Module], PixelObjective]) -> None:
    before = copy.deepcopy(network.state_dict())
    make(network).step(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 32, 32), 1e-3)
    assert not [name for name, tensor in network.named_parameters() if torch.equal(tensor, before[name])]


def test_the_adversarial_stage_leaves_the_statistics_alone(network: SwiftSRGAN) -> None:
    before = copy.deepcopy(network.state_dict())
    adversarial(network).step(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 32, 32), 1e-3)
    statistics = [name for name in before if "running_" in name]
    assert statistics and all(torch.equal(network.state_dict()[name], before[name]) for name in statistics)


def test_both_players_move_and_neither_moves_the_other(network: SwiftSRGAN) -> None:
    discriminator = Discriminator()
    adversary = Adversary(discriminator, 1e-3)
    fake = network(torch.rand(2, 3, 16, 16))
    before = copy.deepcopy(network.state_dict()), copy.deepcopy(discriminator.state_dict())
    adversary.learn(torch.rand(2, 3, 32, 32), fake)
    assert all(parameter.grad is None for parameter in network.parameters())
    moved = [n for n, tensor in discriminator.named_parameters() if not torch.equal(tensor, before[1][n])]
    assert len(moved) == len(list(discriminator.parameters()))
    adversary.optimizer.zero_grad()
    adversary.verdict(fake).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in discriminator.parameters())


def test_the_discriminator_learns_to_tell_noise_from_stripes() -> None:
    torch.manual_seed(0)
    adversary = Adversary(Discriminator(), 1e-3)
    stripes = (torch.arange(32) % 2).float().expand(4, 3, 32, 32)
    losses = [adversary.learn(stripes, torch.rand(4, 3, 32, 32)).item() for _ in range(12)]
    assert losses[0] == pytest.approx(math.log(4), abs=0.5) and losses[-1] < 0.3


def test_a_resumed_objective_goes_on_as_it_was(network: SwiftSRGAN) -> None:
    pictures = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 32, 32)
    first = adversarial(network)
    first.step(*pictures, 1e-3)
    twin = copy.deepcopy(network)
    second = adversarial(twin)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(first.step(*pictures, 1e-3), second.step(*pictures, 1e-3))
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), twin.state_dict().values(), strict=True))
