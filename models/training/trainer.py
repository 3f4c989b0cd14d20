"""The training loop: resumable at any moment, exact in repetition, at most a minute lost.

Knows nothing of particular networks: it trains anything with `subpixels`, that is [N, 3, H, W] in 0..1 to the unclipped picture
before its pixel shuffle.
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
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.checkpoint import save_checkpoint
from models.errors import FourfoldError
from models.evaluation.metrics import psnr_y
from models.registry import build_network
from models.training.config import ConfigError, RunConfig
from models.training.data import TrainingData
from models.video_io import SubpixelNetwork

log = logging.getLogger(__name__)


class ResumeError(FourfoldError):
    """The state in the run's folder belongs to another run."""


class Trainer:
    """One run in one folder: `state.pt` to resume from, `best.safetensors` (average, best on validation), `log.csv`."""

    def __init__(self, config: RunConfig, data: TrainingData, folder: Path) -> None:
        """Prepares a run, or the rest of one if `folder` holds its state.

        Raises:
            ConfigError: the network is none that this loop can train.
            ResumeError: `folder` holds the state of a run with another configuration, or a damaged one.
        """
        self.config, self.data, self.folder = config, data, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.training.seed)
        self.network = build_network(config.network.name, config.network.scale)
        if not hasattr(self.network, "subpixels") or not list(self.network.parameters()):
            raise ConfigError(f"network.name = {config.network.name!r} cannot be trained yet; xlsr can")
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.training.learning_rate, foreach=True)
        self.step, self.best, self.seconds = 0, -math.inf, 0.0
        if (folder / "state.pt").exists():
            self._resume()

    def run(self) -> float:
        """Trains until the configured number of steps and returns the best validation PSNR-Y in dB."""
        settings = self.config.training
        loss_of = torch.compile(self._loss) if settings.compile else self._loss
        started = saved = time.monotonic()
        before = self.seconds
        losses: list[Tensor] = []
        while self.step < settings.steps:
            losses.append(self._train_step(loss_of))
            now = time.monotonic()
            self.seconds = before + now - started
            if self.step % settings.validate_steps == 0 or self.step == settings.steps:
                self._validate(float(torch.stack(losses).mean()))
                losses.clear()
            if now - saved >= settings.checkpoint_seconds or self.step == settings.steps:
                self._save()
                saved = now
        return self.best

    def _train_step(self, loss_of: Any) -> Tensor:
        settings = self.config.training
        low, high = self.data.batch(settings.batch, (settings.seed, self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.optimizer.zero_grad()
        target = F.pixel_unshuffle(torch.from_numpy(high), self.config.network.scale)
        loss: Tensor = loss_of(torch.from_numpy(low), target)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_norm)
        self.optimizer.step()
        with torch.no_grad():
            averaged: list[Tensor] = list(self.average.parameters())
            current: list[Tensor] = list(self.network.parameters())
            torch._foreach_lerp_(averaged, current, 1 - settings.ema_decay)
        self.step += 1
        return loss.detach()

    def _loss(self, low: Tensor, target: Tensor) -> Tensor:
        """Charbonnier loss on the clipped picture, plus what the clip cut off (which alone has a gradient there)."""
        settings = self.config.training
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            subpixels = cast(SubpixelNetwork, self.network).subpixels(low)
        subpixels = subpixels.float()
        clipped = subpixels.clamp(0, 1)
        charbonnier = ((clipped - target) ** 2 + settings.charbonnier_epsilon**2).sqrt().mean()
        return charbonnier + settings.clip_penalty * (subpixels - clipped).abs().mean()

    def _validate(self, loss: float) -> None:
        scale = self.config.network.scale
        psnr = float(np.mean([psnr_y(upscale(self.average, p.low), p.high, scale) for p in self.data.validation]))
        row = {
            "step": self.step,
            "loss": loss,
            "learning_rate": learning_rate(self.config, self.step),
            "psnr_y": psnr,
            "seconds": self.seconds,
        }
        log.info("step %(step)d  loss %(loss).5f  PSNR-Y %(psnr_y).3f dB  %(seconds).0f s", row)
        with (self.folder / "log.csv").open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        if psnr > self.best:
            self.best = psnr
            metadata = {
                "network": self.config.network.name,
                "scale": str(scale),
                "step": str(self.step),
                "config": json.dumps(asdict(self.config)),
                "validation_psnr_y": f"{psnr:.3f}",
            }
            save_checkpoint(self.average, self.folder / "best.safetensors", metadata)

    def _save(self) -> None:
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with _replacing(self.folder / "state.pt") as path:
            torch.save(state, path)

    def _resume(self) -> None:
        try:
            state = torch.load(self.folder / "state.pt", weights_only=True)
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
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        log.info("resumed at step %d", self.step)


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
    result: Tensor = network(tensor)
    return (result[0] * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` only once it is complete."""
    partial = path.with_suffix(".partial")
    yield partial
    os.replace(partial, path)
