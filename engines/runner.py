"""What an engine is asked for and what it offers: the vocabulary that backends, engine process and sessions share.

Knows nothing of any particular backend.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

Goal = Literal["latency", "throughput"]
"""What an engine is wanted for: one frame soon (live streams, pictures), or many in all (files)."""

INPUTS: dict[Form, tuple[str, ...]] = {"rgb": ("rgb",), "yuv420": ("y", "u", "v")}
"""The names of a graph's image inputs, in the order of `Planes`."""


class EngineError(FourfoldError):
    """Something in or around an engine failed."""


class BackendUnavailableError(EngineError):
    """The backend or precision that was asked for does not work on this machine."""


class EngineRefusedError(EngineError):
    """A compiled engine does not compute what its network computes; see `engines.admit`."""


class InferenceError(EngineError):
    """One frame failed; the engine goes on."""


class LateError(InferenceError):
    """A frame was not computed: its deadline had passed before its turn came."""


class DeviceMemoryError(InferenceError):
    """A frame failed because the device had no memory left for it; a batch is tried frame by frame before that is said."""


class EngineDeadError(EngineError):
    """The engine is gone, and with it every frame it held."""


@dataclass(frozen=True)
class Graphs:
    """One network in one form, in every precision that it is exported in."""

    title: str  # for people
    scale: int
    form: Form
    files: Mapping[str, Path] = field(hash=False)  # fp32, and fp16 and int8 where there are such graphs -> ONNX
    checkpoint: Path | None = None  # the weights, for a backend that runs the network itself

    def file(self, precision: Precision) -> Path | None:
        """The graph to compute in `precision`: FP16 and INT8 are written into graphs of their own, BF16 is not."""
        return self.files.get("fp32" if precision == "bf16" else precision)


@dataclass(frozen=True)
class Layout:
    """How the work is spread over a device."""

    lanes: int = 1  # infer() calls in flight at once
    threads: int = 1  # CPU threads of one lane
    batch: int = 1  # frames of one call, at most


@dataclass(frozen=True)
class EngineSpec:
    """What to run, how. Two equal specs give the same engine."""

    graphs: Graphs
    width: int | None = None  # input pixels; None: any size, at some cost
    height: int | None = None
    colour: Colour | None = None  # of the frames in and out; yuv420 only
    precision: Precision = "fp32"
    layout: Layout = field(default_factory=Layout)

    @property
    def onnx(self) -> Path:
        """The graph to run."""
        path = self.graphs.file(self.precision)
        if path is None:
            has = ", ".join(self.graphs.files)
            raise BackendUnavailableError(f"{self.graphs.title} has no {self.precision} graph; it has {has}")
        return path

    @property
    def scale(self) -> int:
        return self.graphs.scale

    @property
    def form(self) -> Form:
        return self.graphs.form

    def output_planes(self, height: int, width: int) -> tuple[tuple[int, ...], ...]:
        """The shapes of the planes that come out for an input of `height` lines of `width` pixels.

        An odd last row or column of the output is lost in yuv420: its chroma would have no pixel to lie on.
        """
        return output_shapes(self.form, self.scale, height, width)


def plane_shapes(form: Form, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of the planes of a frame, in the order of `Planes`."""
    if form == "rgb":
        return ((height, width, 3),)
    chroma = ((height + 1) // 2, (width + 1) // 2)
    return ((height, width), chroma, chroma)


def output_shapes(form: Form, scale: int, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of the planes that come out for `height` lines of `width` pixels; see `EngineSpec.output_planes`."""
    height, width = height * scale, width * scale
    return plane_shapes(form, height, width) if form == "rgb" else plane_shapes("yuv420", height & ~1, width & ~1)


class Frame(Protocol):
    """One frame to upscale: planes to read, and planes to fill of the shapes that `EngineSpec.output_planes` gives."""

    @property
    def inputs(self) -> Planes: ...
    @property
    def outputs(self) -> Planes: ...


@dataclass(frozen=True)
class PlaneFrame:
    """A frame in arrays of its own; `engines.slots` has frames in shared memory."""

    inputs: Planes
    outputs: Planes


class Runner(Protocol):
    """A network ready to run on one device. Calls may come from `layout.lanes` threads at once.

    `infer` reads and writes arrays that belong to the caller and keeps none of them after it returns.
    """

    def infer(self, frames: Sequence[Frame]) -> None:
        """Upscales up to `layout.batch` frames.

        Args:
            frames: of the spec's form and, unless the spec leaves it open, size; all of one size.

        Raises:
            InferenceError: these frames could not be computed; the next ones can.
            EngineDeadError: nor can any other.
        """
        ...

    def pin(self, memory: Plane) -> None:
        """Tells that frames will lie in `memory`, until `unpin` or `close`: a device that copies by itself has it locked."""
        ...

    def unpin(self, memory: Plane) -> None:
        """Tells that no frame lies in `memory` any more."""
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

    def layouts(self, goal: Goal, cores: int) -> list[Layout]:
        """The ways to spread the work that are worth trying for `goal` beside `cores` CPU cores, the likeliest first."""
        ...

    def build(self, spec: EngineSpec) -> bytes:
        """Compiles `spec.onnx` into what `load` takes.

        Raises:
            BackendUnavailableError: this backend cannot compile this graph; the message says why.
        """
        ...

    def load(self, compiled: bytes, spec: EngineSpec) -> Runner:
        """A runner from what `build` gave for an equal spec on this device and version."""
        ...
