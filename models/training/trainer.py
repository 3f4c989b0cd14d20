"""The training loop: resumable at any moment, exact in repetition, at most a minute lost.

Knows nothing of losses: an objective makes each step (`models.training.objectives`).
"""

import copy
import csv
import json
import logging
import math
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import load_start, read_metadata, save_checkpoint
from models.errors import FourfoldError
from models.evaluation.metrics import psnr_y, shave
from models.evaluation.squeeze import SqueezeDistance
from models.registry import HERE, build_network
from models.training.config import RunConfig
from models.training.curve import draw_curve
from models.training.data import TrainingData
from models.training.objectives import PixelObjective

log = logging.getLogger(__name__)


COLUMNS = ("step", "loss", "learning_rate", "psnr_y", "squeeze_distance", "seconds")  # of log.csv


class ResumeError(FourfoldError):
    """The state in the run's folder belongs to another run."""


def fresh_network(config: RunConfig, device: torch.device) -> nn.Module:
    """The network that a run starts with, on `device`.

    Raises:
        FourfoldError: there is no such network, or the checkpoint to start from does not fit it.
    """
    torch.manual_seed(config.training.seed)
    network = build_network(config.network.name, config.network.scale)
    if config.network.start:
        load_start(network, start_of(config))
    return network.to(device)


def start_of(config: RunConfig) -> Path:
    """The checkpoint that a run starts from."""
    return HERE / "checkpoints" / f"{config.network.start}.safetensors"


class Trainer:
    """One run in one folder: `state.pt` to resume from, `best.safetensors` (best average), `log.csv` and `curve.png`."""

    def __init__(
        self,
        config: RunConfig,
        data: TrainingData,
        folder: Path,
        objective: PixelObjective,
        distance: SqueezeDistance | None = None,
    ) -> None:
        """Prepares a run, or the rest of one if `folder` holds its state.

        Args:
            objective: made for a `fresh_network`; it holds the network that is trained.
            distance: what the best network is chosen by; PSNR-Y if None.

        Raises:
            ResumeError: `folder` holds the state of a run with another configuration, or a damaged one.
        """
        self.config, self.data, self.folder, self.objective, self.distance = config, data, folder, objective, distance
        folder.mkdir(parents=True, exist_ok=True)
        self.network = objective.network
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.start = read_metadata(start_of(config)) if config.network.start else {}  # how it had been trained before
        self.step, self.best, self.seconds = 0, -math.inf, 0.0
        if (folder / "state.pt").exists():
            self._resume()
        else:
            (folder / "log.csv").unlink(missing_ok=True)  # of a run that ended before its first checkpoint

    def run(self) -> float:
        """Trains until the configured number of steps and returns the best validation score (see `_validate`)."""
        settings = self.config.training
        started = saved = time.monotonic()
        before = self.seconds
        losses: list[Tensor] = []
        batches = self.data.batches(settings.batch, settings.seed, self.step)
        while self.step < settings.steps:
            low, high = (torch.from_numpy(side).to(self.objective.device) for side in next(batches))
            losses.append(self.objective.step(low, high, learning_rate(self.config, self.step)))
            self._update_average()
            self.step += 1
            self.seconds = before + time.monotonic() - started
            if self.step % settings.validate_steps == 0 or self.step == settings.steps:
                self._validate(float(torch.stack(losses).mean()))
                losses.clear()
            if time.monotonic() - saved >= settings.checkpoint_seconds or self.step == settings.steps:
                self._save()
                saved = time.monotonic()
        return self.best

    @torch.no_grad()
    def _update_average(self) -> None:
        averaged, current = self.average.state_dict(), self.network.state_dict()
        floating = [name for name, tensor in averaged.items() if tensor.is_floating_point()]
        decay = min(self.config.training.ema_decay, (1 + self.step) / (10 + self.step))  # forgets the untrained network soon
        torch._foreach_lerp_([averaged[name] for name in floating], [current[name] for name in floating], 1 - decay)

    def _validate(self, loss: float) -> None:
        """Scores the average on the held-out pictures: PSNR-Y in dB, or minus the distance where one was given."""
        scale = self.config.network.scale
        self.average.eval()
        pictures = [(upscale(self.average, pair.low), pair.high) for pair in self.data.validation]
        seen = [[shave(image, scale) for image in pair] for pair in pictures]  # as the evaluation sees them
        row = {
            "step": self.step,
            "loss": loss,
            "learning_rate": learning_rate(self.config, self.step),
            "psnr_y": float(np.mean([psnr_y(ours, truth, scale) for ours, truth in pictures])),
            "squeeze_distance": float(np.mean([self.distance.of_images(*pair) for pair in seen]))
            if self.distance
            else math.nan,
            "seconds": self.seconds,
        }
        log.info(
            "step %(step)d  loss %(loss).5f  PSNR-Y %(psnr_y).3f dB  distance %(squeeze_distance).3f  %(seconds).0f s", row
        )
        with (self.folder / "log.csv").open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        draw_curve(self.folder / "log.csv", self.folder / "curve.png")
        score = -row["squeeze_distance"] if self.distance else row["psnr_y"]
        if score > self.best:
            self.best = score
            metadata = {
                "network": self.config.network.name,
                "scale": str(scale),
                "step": str(self.step),
                "config": json.dumps(asdict(self.config)),
                "start": json.dumps(self.start) if self.start else "",
                "validation_psnr_y": f"{row['psnr_y']:.3f}",
                "validation_squeeze_distance": f"{row['squeeze_distance']:.4f}",
            }
            save_checkpoint(self.average, self.folder / "best.safetensors", metadata)

    def _save(self) -> None:
        state = {
            "config": asdict(self.config),
            "start": self.start,
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "objective": self.objective.state_dict(),
        }
        with _replacing(self.folder / "state.pt") as path:
            torch.save(state, path)

    def _resume(self) -> None:
        try:
            state = torch.load(self.folder / "state.pt", weights_only=True, map_location=self.objective.device)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ResumeError(f"{self.folder / 'state.pt'} is damaged; remove it to start the run again") from error
        differing = sorted(key for key, value in asdict(self.config).items() if state["config"].get(key) != value)
        if differing:
            raise ResumeError(
                f"{self.folder} holds a run whose {', '.join(differing)} differ from this configuration; "
                "give another --run folder, or the configuration that the run was started with"
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.objective.load_state_dict(state["objective"])
        self.start = state["start"]
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self._forget_rows_after(self.step)
        log.info("resumed at step %d", self.step)

    def _forget_rows_after(self, step: int) -> None:
        """Rows of log.csv that were written after the state was: the run will write them again."""
        path = self.folder / "log.csv"
        if path.exists():
            with path.open(newline="") as file:
                rows = [
                    row for row in csv.reader(file) if len(row) == len(COLUMNS) and (row[0] == "step" or int(row[0]) <= step)
                ]
            with _replacing(path) as partial, partial.open("w", newline="") as file:
                csv.writer(file).writerows(rows or [COLUMNS])


def learning_rate(config: RunConfig, step: int) -> float:
    """Linear warm-up from 5e-5, then half a cosine down to the final learning rate."""
    settings = config.training
    if step < settings.warmup_steps:
        return 5e-5 + (settings.learning_rate - 5e-5) * step / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    swing = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + swing * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def upscale(network: nn.Module, image: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Runs `network` on one [H, W, 3] uint8 RGB picture and rounds the result to uint8, [scale * H, scale * W, 3]."""
    tensor = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    device = next((parameter.device for parameter in network.parameters()), None)
    result: Tensor = network(tensor.to(device)).cpu()
    return (result[0] * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` only once it is complete."""
    partial = path.with_suffix(".partial")
    yield partial
    os.replace(partial, path)
