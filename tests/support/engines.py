"""Engine specs and frames for tests."""

import numpy as np

from engines.build import open_runner
from engines.runner import EngineSpec, PlaneFrame, Planes, Precision, plane_shapes
from models.colour import Colour
from models.registry import Form
from server.catalogue import find_graphs


def spec_of(
    name: str, scale: int, form: Form, width: int | None, height: int | None, precision: Precision = "fp32"
) -> EngineSpec:
    """A spec for a model of the registry, one lane of one thread."""
    colour = Colour("bt709", "limited") if form == "yuv420" else None
    return EngineSpec(find_graphs(name, scale, form)[1], width, height, colour, precision)


def picture_planes(form: Form, height: int, width: int) -> Planes:
    """Smooth planes with some detail, so that a shifted or swapped plane shows."""
    planes = []
    for number, shape in enumerate(plane_shapes(form, height, width)):
        rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
        waves = 128 + 60 * np.sin(rows / 5 + number) + 40 * np.cos(columns / 3 - number)
        planes.append(np.rint(waves if len(shape) == 2 else np.repeat(waves[..., None], 3, 2)).astype(np.uint8))
    return tuple(planes)


def run(backend: str, spec: EngineSpec, inputs: Planes) -> Planes:
    """One frame through an engine of its own."""
    height, width = inputs[0].shape[:2]
    frame = PlaneFrame(inputs, tuple(np.zeros(shape, np.uint8) for shape in spec.output_planes(height, width)))
    runner = open_runner(backend, spec)
    runner.infer([frame])
    runner.close()
    return frame.outputs
