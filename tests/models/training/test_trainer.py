"""Training repeats exactly, resumes exactly, and refuses what it should not go on with."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models.checkpoint import load_checkpoint
from models.evaluation.metrics import psnr_y
from models.evaluation.squeeze import SqueezeDistance
from models.registry import build_network
from models.resize import UInt8Image
from models.swift_srgan import Discriminator
from models.training.config import AdversarialConfig, ConfigError, NetworkConfig, RunConfig
from models.training.data import Batch, TrainingData
from models.training.objectives import AdversarialObjective, Adversary, PixelObjective
from models.training.trainer import ResumeError, Trainer, fresh_network, learning_rate, upscale
from tests.support.runs import TINY, AverageColours, draw_pictures, trainer, with_training


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return TrainingData(draw_pictures(tmp_path_factory.mktemp("train")), TINY.data, 2)


class PowerCutError(Exception):
    """What stops a run in the middle."""


class FailingData(TrainingData):
    """Training data with which the power fails at one step."""

    def __init__(self, data: TrainingData, step: int) -> None:
        self.__dict__.update(data.__dict__)
        self._fatal_step = step

    def batch(self, size: int, seed: tuple[int, ...]) -> Batch:
        if seed[-1] == self._fatal_step:
            raise PowerCutError
        return super().batch(size, seed)


def train(config: RunConfig, data: TrainingData, folder: Path) -> dict[str, torch.Tensor]:
    """All weights after the run: those of the best average and those that training would go on with."""
    trainer(config, data, folder).run()
    state = torch.load(folder / "state.pt", weights_only=True)
    flat = {f"{part}.{name}": tensor for part in ("network", "average") for name, tensor in state[part].items()}
    return flat | {f"best.{name}": tensor for name, tensor in load_file(folder / "best.safetensors").items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize("bfloat16", [False, True])
def test_two_runs_are_equal(pictures: TrainingData, tmp_path: Path, bfloat16: bool) -> None:
    config = with_training(bfloat16=bfloat16)
    first = train(config, pictures, tmp_path / "a")
    assert_same(first, train(config, pictures, tmp_path / "b"))


def test_another_seed_is_another_run(pictures: TrainingData, tmp_path: Path) -> None:
    first, second = (train(with_training(seed=seed), pictures, tmp_path / str(seed)) for seed in (1, 2))
    assert not torch.equal(first["network.tail.weight"], second["network.tail.weight"])


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_run_equals_an_unbroken_one(pictures: TrainingData, tmp_path: Path, step: int) -> None:
    unbroken = train(TINY, pictures, tmp_path / "unbroken")
    with pytest.raises(PowerCutError):
        trainer(TINY, FailingData(pictures, step), tmp_path / "broken").run()
    assert trainer(TINY, pictures, tmp_path / "broken").step == step
    assert_same(unbroken, train(TINY, pictures, tmp_path / "broken"))


def test_a_finished_run_stays_finished(pictures: TrainingData, tmp_path: Path) -> None:
    best = trainer(TINY, pictures, tmp_path).run()
    before = (tmp_path / "best.safetensors").read_bytes()
    assert trainer(TINY, pictures, tmp_path).run() == best
    assert (tmp_path / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("other", "section"),
    [(with_training(learning_rate=1e-3), "training"), (replace(TINY, network=NetworkConfig("xlsr", 4, "")), "network")],
    ids=["training", "network"],
)
def test_a_run_does_not_go_on_with_another_configuration(
    pictures: TrainingData, tmp_path: Path, other: RunConfig, section: str
) -> None:
    trainer(TINY, pictures, tmp_path).run()
    with pytest.raises(ResumeError, match=f"whose {section} differ"):
        trainer(other, pictures, tmp_path)


def test_the_best_checkpoint_says_what_it_is(pictures: TrainingData, tmp_path: Path) -> None:
    best = trainer(TINY, pictures, tmp_path).run()
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        header = file.metadata()
    assert (header["network"], header["scale"]) == ("xlsr", "2")
    assert float(header["validation_psnr_y"]) == pytest.approx(best, abs=1e-3)

    network = build_network("xlsr", 2)
    load_checkpoint(network, tmp_path / "best.safetensors")
    pair = pictures.validation[0]
    assert psnr_y(upscale(network, pair.low), pair.high, 2) == pytest.approx(best, abs=1e-3)


def test_the_log_has_a_row_for_each_validation(pictures: TrainingData, tmp_path: Path) -> None:
    best = trainer(TINY, pictures, tmp_path).run()
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert max(float(row["psnr_y"]) for row in rows) == best
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "curve.png", "log.csv", "state.pt"]


def test_training_makes_the_picture_better(pictures: TrainingData, tmp_path: Path) -> None:
    best = trainer(with_training(steps=80, validate_steps=40, checkpoint_seconds=60.0), pictures, tmp_path).run()
    untrained = trainer(TINY, pictures, tmp_path / "untrained").average
    pair = pictures.validation[0]
    assert best > psnr_y(upscale(untrained, pair.low), pair.high, 2) + 3


def test_learning_rate_warms_up_and_falls() -> None:
    config = with_training(steps=102)
    rates = [learning_rate(config, step) for step in range(103)]
    assert rates[0] == 5e-5 and rates[2] == 2e-3
    assert rates[52] == pytest.approx((2e-3 + 1e-5) / 2) and rates[102] == pytest.approx(1e-5)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_upscale_takes_and_gives_pictures() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    large = upscale(build_network("bicubic", 3), image)
    assert large.shape == (15, 21, 3) and large.dtype == np.uint8


def test_a_damaged_state_is_named(pictures: TrainingData, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(ResumeError, match="damaged; remove it"):
        trainer(TINY, pictures, tmp_path)


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="Bicubic has no weights to train"):
        PixelObjective(build_network("bicubic", 2), 2, TINY.training)


def adversarial_trainer(data: TrainingData, folder: Path) -> Trainer:
    """Average colours stand in for MobileNetV2, the mean difference for SqueezeNet's: neither needs weights."""
    config = replace(ADVERSARIAL, adversarial=AdversarialConfig(1e-3, 0.1, [16], "", "", 1e-3, head_start=1))
    network = fresh_network(config, torch.device("cpu"))
    adversary = Adversary(Discriminator(), 1e-3)
    objective = AdversarialObjective(network, 2, config.training, config.adversarial, adversary, AverageColours())
    return Trainer(config, data, folder, objective, MeanDifference())


class MeanDifference(SqueezeDistance):
    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def of_images(self, first: UInt8Image, second: UInt8Image) -> float:
        return float(np.abs(first.astype(int) - second).mean())


ADVERSARIAL = replace(with_training(steps=4, validate_steps=1), network=NetworkConfig("swift-srgan", 2, ""))


def test_an_adversarial_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = TrainingData(draw_pictures(tmp_path / "train"), replace(TINY.data, crop=16, rescale=[1.0]), 2)
    unbroken = adversarial_trainer(data, tmp_path / "unbroken")
    best = unbroken.run()
    with pytest.raises(PowerCutError):
        adversarial_trainer(FailingData(data, 2), tmp_path / "broken").run()
    resumed = adversarial_trainer(data, tmp_path / "broken")
    assert resumed.step == 2 and resumed.run() == best
    assert_same(unbroken.network.state_dict(), resumed.network.state_dict())
    assert_same(unbroken.average.state_dict(), resumed.average.state_dict())
    logs = [list(csv.DictReader((tmp_path / run / "log.csv").read_text().splitlines())) for run in ("unbroken", "broken")]
    for rows in logs:
        assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    distances = [[row["squeeze_distance"] for row in rows] for rows in logs]
    assert distances[0] == distances[1] and best == -min(map(float, distances[0]))


def test_rows_of_an_unfinished_minute_are_written_once(pictures: TrainingData, tmp_path: Path) -> None:
    trainer(TINY, pictures, tmp_path).run()
    whole = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").write_text(whole + "9,0.1,0.1,30.0,nan,12.0\n12,0.")  # newer than the state, and torn
    trainer(TINY, pictures, tmp_path)
    assert (tmp_path / "log.csv").read_text().split() == whole.split()


def test_a_run_without_state_starts_its_log_anew(pictures: TrainingData, tmp_path: Path) -> None:
    trainer(TINY, pictures, tmp_path).run()
    (tmp_path / "state.pt").unlink()
    trainer(TINY, pictures, tmp_path).run()
    with (tmp_path / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6"]
