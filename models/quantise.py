"""INT8 for XLSR: which values are rounded, by what scale, found on real pictures.

Symmetric throughout, one scale for an activation and one for each output channel of a weight: what TensorRT, OpenVINO and ONNX
Runtime all accept as explicit Q/DQ. The convolutions that see the picture itself stay in float (4% of the multiplications), so
does the last output: 128 levels of brightness would show as bands.
"""

import copy
from collections.abc import Iterable

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators that the exporter turns into Q and DQ
from torch import Tensor, nn
from torch.nn import functional as F

from models.fold import FoldedXLSR

ops = torch.ops.quantized_decomposed
LEVELS = 127
INT8 = (-LEVELS - 1, LEVELS, torch.int8)


class QuantisedConv(nn.Module):
    """A convolution with INT8 weights whose input is rounded to INT8 steps; its output is float."""

    weight: Tensor
    steps: Tensor
    zeros: Tensor

    def __init__(self, conv: nn.Conv2d, input_step: float) -> None:
        super().__init__()
        self.input_step, self.bias, self.padding = input_step, conv.bias, conv.padding
        weight = conv.weight.detach()
        steps = weight.abs().amax((1, 2, 3)) / LEVELS
        self.register_buffer("weight", (weight / steps[:, None, None, None]).round().to(torch.int8))
        self.register_buffer("steps", steps)
        self.register_buffer("zeros", torch.zeros_like(steps, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        codes = ops.quantize_per_tensor(x, self.input_step, 0, *INT8)
        x = ops.dequantize_per_tensor(codes, self.input_step, 0, *INT8)
        weight = ops.dequantize_per_channel(self.weight, self.steps, self.zeros, 0, *INT8)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class QuantisedXLSR(nn.Module):
    """A folded XLSR whose inner convolutions take INT8 activations and weights; its export is a Q/DQ graph."""

    def __init__(self, network: FoldedXLSR, input_steps: list[float]) -> None:
        """Args: input_steps: from `calibrate`: what one INT8 step of each quantised convolution's input is worth."""
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        quantised = [QuantisedConv(conv, step) for conv, step in zip(_inner(self.network), input_steps, strict=True)]
        *body, self.network.merge_features, self.network.tail = quantised  # type: ignore[assignment]
        self.network.body = nn.ModuleList(body)

    def subpixels(self, rgb: Tensor) -> Tensor:
        """As `XLSR.subpixels`: [N, 3, H, W] in 0..1 -> [N, 3 * scale**2, H, W], unclipped."""
        return self.network.subpixels(rgb)

    def forward(self, rgb: Tensor) -> Tensor:
        """As `XLSR.forward`: [N, 3, H, W] in 0..1 -> [N, 3, scale * H, scale * W] in 0..1."""
        result: Tensor = self.network(rgb)
        return result


def _inner(network: FoldedXLSR) -> list[nn.Conv2d]:
    """The convolutions that are quantised, in the order of the frame."""
    return [*network.body, network.merge_features, network.tail]


@torch.no_grad()
def calibrate(network: FoldedXLSR, pictures: Iterable[Tensor]) -> list[float]:
    """The INT8 steps of the inputs of `network`'s quantised convolutions, each with the least squared error on `pictures`.

    Args:
        pictures: [N, 3, H, W] RGB in 0..1, a few hundred real ones: random ones give ranges that no picture reaches.
    """
    convolutions = _inner(network)
    seen: list[list[Tensor]] = [[] for _ in convolutions]

    def remember(values: list[Tensor], x: Tensor) -> None:
        flat = x.flatten()
        values.append(torch.cat([flat[torch.randint(len(flat), (20_000,))], flat.max()[None]]))

    hooks = [
        conv.register_forward_pre_hook(lambda _, inputs, values=values: remember(values, inputs[0]))
        for conv, values in zip(convolutions, seen, strict=True)
    ]
    torch.manual_seed(0)
    for picture in pictures:
        network.subpixels(picture)
    for hook in hooks:
        hook.remove()
    return [_best_scale(torch.cat(values)) for values in seen]


def _best_scale(values: Tensor) -> float:
    """The step with the least squared rounding and clipping error on `values`."""
    steps = values.max() / LEVELS * torch.linspace(0.2, 1.0, 41)
    errors = torch.stack(
        [((values / step).round().clamp(-LEVELS - 1, LEVELS) * step - values).square().mean() for step in steps]
    )
    return float(steps[errors.argmin()])
