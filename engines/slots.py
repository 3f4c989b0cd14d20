"""Frames in shared memory: a slot holds the planes of one input frame and of its upscaled self.

Decoder, engine and encoder work in the same bytes, also from different processes; only slot numbers travel. The memory is an
anonymous file (memfd) handed over as a descriptor: it has no name to clash or to leak, and goes when its last user goes.
"""

import mmap
import os
from dataclasses import dataclass
from queue import Queue

import numpy as np

from engines.runner import EngineSpec, Plane, Planes, plane_shapes

ALIGNMENT = 64

_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Slot:
    """One frame on its way: its number in the pool, and views of its planes."""

    number: int
    inputs: Planes
    outputs: Planes
    picture: Plane  # the output planes as one array: [1.5 * H, W] for yuv420, [H, W, 3] for rgb


class SlotPool:
    """A fixed number of slots for frames of one size. Made by the caller of an engine; the engine maps the same memory."""

    def __init__(self, spec: EngineSpec, count: int, descriptor: int | None = None) -> None:
        """Args:
        spec: with width and height.
        count: slots.
        descriptor: the memory of a pool made elsewhere, to map instead of making one; it is duplicated.
        """
        assert spec.width and spec.height
        self.spec, self.count = spec, count
        input_shapes = plane_shapes(spec.form, spec.height, spec.width)
        output_shapes = spec.output_planes(spec.height, spec.width)
        input_bytes, output_bytes = (_aligned(sum(map(_size, shapes))) for shapes in (input_shapes, output_shapes))
        total = count * (input_bytes + output_bytes)
        self.descriptor = os.memfd_create("fourfold-slots") if descriptor is None else os.dup(descriptor)
        if descriptor is None:
            os.ftruncate(self.descriptor, total)
        self.memory: Plane = np.frombuffer(mmap.mmap(self.descriptor, total), np.uint8)
        self.slots = [
            self._slot(i, i * (input_bytes + output_bytes), input_bytes, input_shapes, output_shapes) for i in range(count)
        ]
        self._free: Queue[Slot] = Queue()
        for slot in self.slots:
            self._free.put(slot)

    def acquire(self) -> Slot:
        """A free slot; waits until there is one. This is what holds the decoder back when the rest is slower."""
        return self._free.get()

    def release(self, slot: Slot) -> None:
        """Gives a slot back, once neither the engine nor the encoder reads or writes it."""
        self._free.put(slot)

    def close(self) -> None:
        """Lets go of the memory; the views of slots must not be used any more."""
        os.close(self.descriptor)

    def _slot(self, number: int, start: int, input_bytes: int, inputs: _Shapes, outputs: _Shapes) -> Slot:
        planes = _views(self.memory[start:], outputs, input_bytes)
        picture = self.memory[start + input_bytes :][: sum(map(_size, outputs))].reshape(-1, *outputs[0][1:])
        return Slot(number, _views(self.memory[start:], inputs, 0), planes, picture)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _views(memory: Plane, shapes: _Shapes, offset: int) -> Planes:
    """Consecutive planes of the given shapes."""
    planes = []
    for shape in shapes:
        planes.append(memory[offset : offset + _size(shape)].reshape(shape))
        offset += _size(shape)
    return tuple(planes)
