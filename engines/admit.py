"""Admission: no engine serves before it has shown here that it computes what its network computes.

It is compared with the FP32 graph on a CPU backend, on pictures that are made for it. Speed is another matter: see
`engines.choose`.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from engines.backends import find_backend
from engines.cache import compiled
from engines.runner import (
    Backend,
    BackendUnavailableError,
    EngineRefusedError,
    EngineSpec,
    InferenceError,
    Layout,
    PlaneFrame,
    Planes,
    Precision,
    Runner,
    plane_shapes,
)

PARITY_DB: dict[Precision, float] = {"fp32": 50.0, "bf16": 42.0, "fp16": 44.0, "int8": 34.0}
"""PSNR of an engine against FP32 that it must reach; shipped networks were at least 6 dB better on the CPU backends."""

REFERENCES = ("openvino", "onnxruntime")  # the first that is there

PATCH = 128  # input pixels a side of what the reference computes at once: it costs the same for every frame size
MARGIN = 48  # input pixels next to a cut edge that are not compared: more than any network here sees to one side (41)


def admit(runner: Runner, spec: EngineSpec) -> float:
    """Compares a runner with the FP32 reference in the corners, at the edges and in the middle of two frames.

    Returns:
        The PSNR in dB over all that was compared; infinite if nothing differs.

    Raises:
        EngineRefusedError: it gave the wrong size, nothing but one colour, always the same picture, or a picture too far off.
    """
    height, width = spec.height or PATCH, spec.width or PATCH
    reference, shapes = _reference(spec), spec.output_planes(height, width)
    frames = []
    for seed in (1, 2):
        inputs = trial_planes(spec, height, width, seed)
        frame = PlaneFrame(inputs, tuple(np.zeros(shape, np.uint8) for shape in shapes))
        try:
            runner.infer([frame])
        except (InferenceError, ValueError) as error:  # what NumPy says of shapes that do not fit
            raise EngineRefusedError(f"{_name(spec)} was refused: a {width}x{height} frame failed: {error}") from error
        frames.append(frame)
    squares = np.concatenate([_squared_errors(frame, reference, spec) for frame in frames])
    parity = float(10 * np.log10(255**2 / squares.mean())) if squares.any() else np.inf
    if parity < PARITY_DB[spec.precision]:
        raise EngineRefusedError(
            f"{_name(spec)} was refused: {_fault(frames)}{parity:.1f} dB against FP32, and it takes "
            f"{PARITY_DB[spec.precision]:.0f}"
        )
    return parity


def _fault(frames: list[PlaneFrame]) -> str:
    """What is wrong with wrong pictures, where it shows without the right ones."""
    if all(np.ptp(frame.outputs[0]) == 0 for frame in frames):
        return "its pictures are black or of one colour; "
    if all(np.array_equal(*planes) for planes in zip(frames[0].outputs, frames[1].outputs, strict=True)):
        return "two different frames gave the same picture; "
    return ""


def trial_planes(spec: EngineSpec, height: int, width: int, seed: int) -> Planes:
    """A frame to try an engine on: slow waves, hard edges and some noise, so that a shifted, swapped or lost plane shows."""
    random, planes = np.random.default_rng(seed), []
    for number, shape in enumerate(plane_shapes(spec.form, height, width)):
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        waves = 128 + 50 * np.sin(rows / 9 + number + seed) + 40 * np.cos(columns / 7 - seed)
        edges = 24 * (((rows + columns * seed) // 13) % 2)
        plane = (waves + edges)[(..., *[None] * (len(shape) - 2))] + random.normal(0, 4, shape)
        planes.append(np.rint(plane).clip(0, 255).astype(np.uint8))
    return tuple(planes)


def _reference(spec: EngineSpec) -> Runner:
    """FP32 on the CPU, for any size."""
    exact = EngineSpec(spec.graphs, colour=spec.colour, layout=Layout(threads=spec.layout.threads))
    backend = _first_reference()
    return backend.load(compiled(backend, exact).blob, exact)


def _first_reference() -> Backend:
    for name in REFERENCES:
        backend = find_backend(name)
        try:
            backend.version()
        except BackendUnavailableError:
            continue
        return backend
    raise BackendUnavailableError(f"no engine can be checked: none of {', '.join(REFERENCES)} is installed")


def _squared_errors(frame: PlaneFrame, reference: Runner, spec: EngineSpec) -> npt.NDArray[np.float64]:
    """The squared differences from the reference in all windows of all planes of a frame."""
    height, width = frame.inputs[0].shape[:2]
    differences = []
    for rows, columns in product(_windows(height), _windows(width)):
        part = tuple(plane[_side(rows.cut, i)][:, _side(columns.cut, i)].copy() for i, plane in enumerate(frame.inputs))
        expected = tuple(np.zeros(shape, np.uint8) for shape in spec.output_planes(*part[0].shape[:2]))
        reference.infer([PlaneFrame(part, expected)])
        for i, (ours, theirs) in enumerate(zip(frame.outputs, expected, strict=True)):
            kept = ours[_side(rows.kept, i, spec.scale)][:, _side(columns.kept, i, spec.scale)]
            right = theirs[_side(rows.inside, i, spec.scale)][:, _side(columns.inside, i, spec.scale)]
            differences.append((kept.astype(np.float64) - right).ravel() ** 2)
    return np.concatenate(differences)


@dataclass(frozen=True)
class _Window:
    """A stretch of one side of a frame, in input pixels: what is cut out, and what of it no cut edge can have changed."""

    cut: slice
    kept: slice

    @property
    def inside(self) -> slice:
        """`kept`, counted from the start of what is cut out."""
        return slice(self.kept.start - self.cut.start, self.kept.stop - self.cut.start)


def _windows(length: int) -> list[_Window]:
    """Both ends and the middle of a side, or all of a short one. They start on even pixels: chroma has half of them."""
    if length <= PATCH:
        return [_Window(slice(0, length), slice(0, length))]
    middle, last = (length - PATCH) // 4 * 2, (length - PATCH) // 2 * 2
    return [
        _Window(slice(0, PATCH), slice(0, PATCH - MARGIN)),
        _Window(slice(middle, middle + PATCH), slice(middle + MARGIN, middle + PATCH - MARGIN)),
        _Window(slice(last, length), slice(last + MARGIN, length)),
    ]


def _side(pixels: slice, plane: int, scale: int = 1) -> slice:
    """`pixels` of the input in plane number `plane` of the input or, with `scale`, of the output."""
    shrink = 1 if plane == 0 else 2
    return slice(pixels.start * scale // shrink, -(-pixels.stop * scale // shrink))


def _name(spec: EngineSpec) -> str:
    size = f"{spec.width}x{spec.height}" if spec.width else "any size"
    return f"the engine for {spec.graphs.title} in {spec.precision}, {size},"
