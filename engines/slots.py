"""Frames in shared memory: a slot holds the planes of one input frame and of its upscaled self.

Decoder, engine and encoder work in the same bytes, also from different processes; only slot numbers travel. The memory is an
anonymous file (memfd) handed over as a descriptor: it has no name to clash or to leak, and goes when its last user goes.
"""

import fcntl
import mmap
import os
from dataclasses import dataclass
from queue import Queue
from typing import Self

import numpy as np

from engines.runner import EngineSpec, Plane, Planes, output_shapes, plane_shapes
from models.registry import Form

ALIGNMENT = 64

_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class FrameFormat:
    """What fits a slot: a frame and its upscaled self."""

    form: Form
    scale: int
    width: int  # input pixels
    height: int

    @classmethod
    def of(cls, spec: EngineSpec) -> Self:
        """That of the frames of an engine for one size."""
        assert spec.width and spec.height
        return cls(spec.form, spec.scale, spec.width, spec.height)


@dataclass(frozen=True)
class Slot:
    """One frame on its way: its number in the pool, and views of its planes."""

    number: int
    inputs: Planes
    outputs: Planes
    picture: Plane  # the output planes as one array: [1.5 * H, W] for yuv420, [H, W, 3] for rgb


class SlotPool:
    """A fixed number of slots for frames of one format. An engine process makes it; its client maps the same memory."""

    def __init__(self, frames: FrameFormat, count: int, descriptor: int | None = None) -> None:
        """Args:
        frames: that will lie in it.
        count: slots.
        descriptor: the memory of a pool made elsewhere, to map instead of making one; it is duplicated.
        """
        self.count = count
        inputs = plane_shapes(frames.form, frames.height, frames.width)
        outputs = output_shapes(frames.form, frames.scale, frames.height, frames.width)
        input_bytes, output_bytes = (_aligned(sum(map(_size, shapes))) for shapes in (inputs, outputs))
        total = count * (input_bytes + output_bytes)
        self.descriptor = _memory(total) if descriptor is None else os.dup(descriptor)
        self.memory: Plane = np.frombuffer(mmap.mmap(self.descriptor, total), np.uint8)
        self.slots = [self._slot(i, i * (input_bytes + output_bytes), input_bytes, inputs, outputs) for i in range(count)]
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


def _memory(size: int) -> int:
    """Anonymous memory as a descriptor. Its size is sealed: a process that shrank it would crash the others that read it."""
    descriptor = os.memfd_create("fourfold-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


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
