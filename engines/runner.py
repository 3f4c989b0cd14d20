"""What an engine is asked for and what it offers: the vocabulary that backends, engine process and sessions share.

Knows nothing of any particular backend.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from models.colour import Colour
from models.errors import FourfoldError
from models.registry import Form

Plane = npt.NDArray[np.uint8]
Planes = tuple[Plane, ...]
"""A frame in memory, C-contiguous uint8: (y [H, W], u [h, w], v [h, w]) for yuv420, (rgb [H, W, 3],) for rgb."""

Precision = Literal["fp32", "bf16", "fp16", "int8"]


INPUTS: dict[Form, tuple[str, ...]] = {"rgb": ("rgb",), "yuv420": ("y", "u", "v")}
"""The names of a graph's image inputs, in the order of `Planes`."""


class EngineError(FourfoldError):
    """Something in or around an engine failed."""


class BackendUnavailableError(EngineError):
    """The backend or precision that was asked for does not work on this machine."""


class InferenceError(EngineError):
    """One frame failed; the engine goes on."""


class EngineDeadError(EngineError):
    """The engine is gone, and with it every frame it held."""


@dataclass(frozen=True)
class EngineSpec:
    """What to run, how. Two equal specs give the same engine."""

    onnx: Path
    scale: int
    form: Form
    width: int | None = None  # input pixels; None: any size, at some cost
    height: int | None = None
    colour: Colour | None = None  # of the frames in and out; yuv420 only
    precision: Precision = "fp32"
    lanes: int = 1  # infer() calls in flight at once: 1 for the least latency, one per core for the most throughput
    threads: int = 1  # CPU threads of one lane

    def output_planes(self, height: int, width: int) -> tuple[tuple[int, ...], ...]:
        """The shapes of the planes that come out for an input of `height` lines of `width` pixels.

        An odd last row or column of the output is lost in yuv420: its chroma would have no pixel to lie on.
        """
        height, width = height * self.scale, width * self.scale
        return plane_shapes(self.form, height, width) if self.form == "rgb" else plane_shapes("yuv420", height & ~1, width & ~1)


def plane_shapes(form: Form, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of the planes of a frame, in the order of `Planes`."""
    if form == "rgb":
        return ((height, width, 3),)
    chroma = ((height + 1) // 2, (width + 1) // 2)
    return ((height, width), chroma, chroma)


class Runner(Protocol):
    """A network ready to run on one device. Calls may come from `lanes` threads at once.

    `infer` reads and writes arrays that belong to the caller and keeps neither after it returns.
    """

    lanes: int

    def infer(self, inputs: Planes, outputs: Planes) -> None:
        """Upscales one frame.

        Args:
            inputs: planes of the spec's form and, unless the spec leaves it open, size.
            outputs: planes to fill, of the shapes that `EngineSpec.output_planes` gives.

        Raises:
            InferenceError: this frame could not be computed.
        """
        ...

    def close(self) -> None:
        """Frees what the runner holds; `infer` must not be called any more."""
        ...


class Backend(Protocol):
    """A library that compiles and runs ONNX graphs. Every file in `engines/backends` offers one of these as `BACKEND`."""

    name: str

    def version(self) -> str:
        """The library's version.

        Raises:
            BackendUnavailableError: it is not installed; the message says what to install.
        """
        ...

    def precisions(self) -> dict[Precision, str]:
        """The precisions that work on this machine, the fastest first, each with the reason for its place."""
        ...

    def device(self) -> str:
        """The device that engines run on, as precisely as compiled code depends on it."""
        ...

    def build(self, spec: EngineSpec) -> bytes:
        """Compiles `spec.onnx` into what `load` takes."""
        ...

    def load(self, compiled: bytes, spec: EngineSpec) -> Runner:
        """A runner from what `build` gave for an equal spec on this device and version."""
        ...
