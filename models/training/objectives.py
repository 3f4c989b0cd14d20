"""What a network is trained to do: one optimisation step towards the right pixels, or towards pictures that look real.

Knows nothing of data, checkpoints or schedules.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.fold import SubpixelSwiftSRGAN
from models.swift_srgan import SwiftSRGAN
from models.training.config import AdversarialConfig, ConfigError, TrainingConfig
from models.video_io import SubpixelNetwork

SHIFT = 16
"""High-resolution pixels by which the adversary's view of a crop moves."""


class PixelObjective:
    """Charbonnier loss on the clipped picture, plus what the clip cut off (which alone has a gradient there)."""

    def __init__(self, network: nn.Module, scale: int, settings: TrainingConfig) -> None:
        """Args: network: on the device it is to be trained on.

        Raises:
            ConfigError: the network has nothing to train.
        """
        self.network, self.scale, self.settings = network, scale, settings
        self.device = next((parameter.device for parameter in network.parameters()), None)
        if self.device is None:
            raise ConfigError(f"network.name: {type(network).__name__} has no weights to train; xlsr and swift-srgan have")
        form = SubpixelSwiftSRGAN(network) if isinstance(network, SwiftSRGAN) else network
        self._subpixels = cast(SubpixelNetwork, form).subpixels
        self.optimizer = _optimizer(network, settings.learning_rate, settings.weight_decay)
        self._loss = self._compiled(self._pixel_loss)

    def step(self, low: Tensor, high: Tensor, learning_rate: float) -> Tensor:
        """One step on `low` [N, 3, H, W] and `high` [N, 3, scale * H, scale * W]; returns the loss."""
        self.network.train()
        return self._descend(self._loss(low, F.pixel_unshuffle(high, self.scale)), learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the network's weights."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])

    def _descend(self, loss: Tensor, learning_rate: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_norm)
        self.optimizer.step()
        return loss.detach().clone()  # a CUDA graph writes its next loss to the same place

    def _pixel_loss(self, low: Tensor, target: Tensor) -> Tensor:
        with self._autocast():
            subpixels = self._subpixels(low)
        return self._charbonnier(subpixels.float(), target)

    def _charbonnier(self, subpixels: Tensor, target: Tensor) -> Tensor:
        clipped = subpixels.clamp(0, 1)
        charbonnier = ((clipped - target) ** 2 + self.settings.charbonnier_epsilon**2).sqrt().mean()
        return charbonnier + self.settings.clip_penalty * (subpixels - clipped).abs().mean()

    def _autocast(self) -> torch.autocast:
        assert self.device is not None
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16)

    def _compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`function` through torch.compile where the settings say so; on a GPU its kernels then replay as a CUDA graph."""
        if not self.settings.compile:
            return function
        assert self.device is not None
        return torch.compile(function, mode="reduce-overhead" if self.device.type == "cuda" else None)


class Adversary:
    """A discriminator and its training: the other half of a generative adversarial network (Goodfellow et al., 2014)."""

    def __init__(self, discriminator: nn.Module, learning_rate: float) -> None:
        self.discriminator = discriminator
        self.optimizer = _optimizer(discriminator, learning_rate, 0.0)

    def learn(self, real: Tensor, fake: Tensor) -> Tensor:
        """One step towards telling the two batches apart; returns the loss, ln 4 where it cannot."""
        self.discriminator.train().requires_grad_(True)
        believed, doubted = (self.discriminator(pictures).float() for pictures in (real, fake.detach()))
        loss = F.softplus(-believed).mean() + F.softplus(doubted).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def verdict(self, fake: Tensor) -> Tensor:
        """-log D(fake), the mean: what the generator makes small. Its gradient does not reach the discriminator's weights."""
        self.discriminator.requires_grad_(False)
        return F.softplus(-self.discriminator(fake).float()).mean()


class AdversarialObjective(PixelObjective):
    """SwiftSRGAN's loss: pixels and MobileNetV2 features, plus a discriminator's verdict (section III-D).

    Features are compared as unit vectors (Zhang et al., CVPR 2018), so that faint texture counts as much as strong edges.
    Batch normalisation keeps the statistics of the pixel loss's stage: those of a few crops would only disturb it.
    """

    def __init__(
        self,
        network: nn.Module,
        scale: int,
        settings: TrainingConfig,
        adversarial: AdversarialConfig,
        adversary: Adversary,
        content: nn.Module,
    ) -> None:
        """Args: content: pictures [N, 3, H, W] in 0..1 -> lists of features [N, C, h, w], frozen."""
        super().__init__(network, scale, settings)
        self.adversarial, self.adversary, self.content = adversarial, adversary, content
        self._generate = self._compiled(self._subpixels)
        self._content_loss = self._compiled(self._distance)
        self._random = torch.Generator().manual_seed(settings.seed)
        self._rounds = 0

    def step(self, low: Tensor, high: Tensor, learning_rate: float) -> Tensor:
        """The discriminator's step, then the generator's on the same pictures; returns the generator's loss.

        In the first steps the discriminator learns alone, and its loss is returned: what it does not know yet teaches nothing.
        """
        self.network.eval()
        with self._autocast():
            subpixels = self._generate(low)
        fake = F.pixel_shuffle(subpixels.float(), self.scale)
        seen_fake, seen_real = self._at_random_offset(fake, high)
        with self._autocast():
            learned = self.adversary.learn(seen_real, seen_fake)
            self._rounds += 1
            if self._rounds <= self.adversarial.head_start:
                return learned
            judged = self.adversary.verdict(seen_fake) * self.adversarial.weight
            content = self._content_loss(seen_fake, seen_real) * self.adversarial.content_weight
        pixels = self._charbonnier(fake, high)
        return self._descend(pixels + content + judged, learning_rate)

    def _distance(self, fake: Tensor, real: Tensor) -> Tensor:
        """Squared distances of unit feature vectors, averaged over positions, summed over layers."""
        with torch.no_grad():
            targets = self.content(real)
        pairs = zip(self.content(fake), targets, strict=True)
        unit = [(F.normalize(ours.float(), dim=1), F.normalize(theirs.float(), dim=1)) for ours, theirs in pairs]
        return torch.stack([(ours - theirs).square().sum(1).mean() for ours, theirs in unit]).sum()

    def _at_random_offset(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """The same part of all `pictures`, `SHIFT` pixels smaller.

        Networks with strides would push the phases of the pixel shuffle always the same way, which shows as a grid.
        """
        top, left = torch.randint(SHIFT + 1, (2,), generator=self._random).tolist()
        height, width = (side - SHIFT for side in pictures[0].shape[2:])
        return tuple(picture[:, :, top : top + height, left : left + width] for picture in pictures)

    def state_dict(self) -> dict[str, Any]:
        adversary = {
            "discriminator": self.adversary.discriminator.state_dict(),
            "adversary": self.adversary.optimizer.state_dict(),
        }
        return super().state_dict() | adversary | {"random": self._random.get_state(), "rounds": self._rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.adversary.discriminator.load_state_dict(state["discriminator"])
        self.adversary.optimizer.load_state_dict(state["adversary"])
        self._random.set_state(state["random"].cpu())
        self._rounds = state["rounds"]


def _optimizer(network: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
