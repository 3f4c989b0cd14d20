"""The engine as its callers see it: slots in, futures out. Here it runs in the caller's own process.

`engines.client` offers the same in a process of its own; a session cannot tell the two apart.
"""

from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from engines.batching import Lanes
from engines.build import open_at_once
from engines.runner import EngineSpec
from engines.slots import FrameFormat, Slot, SlotPool


class Engine(Protocol):
    """Upscales frames that lie in the slots of its pool. A context manager; leaving it ends the engine."""

    pool: SlotPool

    def submit(self, slot: Slot) -> Future[float]:
        """Queues a slot whose inputs are filled; the future gives the seconds that inference took, once its outputs are.

        Frames may finish out of order: wait for the futures in the order of submission. A future raises InferenceError if its
        frame failed, EngineDeadError if the engine is gone.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class LocalEngine:
    """An engine on threads of this process."""

    def __init__(self, backend: str, spec: EngineSpec, slots: int) -> None:
        """Args:
        backend: its name.
        spec: with width and height.
        slots: frames that may be on their way at once.
        """
        self.pool = SlotPool(FrameFormat.of(spec), slots)
        self._runner = open_at_once(backend, spec)
        self._runner.pin(self.pool.memory)
        self._lanes = Lanes(self._runner, spec.layout)

    def submit(self, slot: Slot) -> Future[float]:
        """See `Engine.submit`."""
        return self._lanes.submit(slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lanes.close()
        self._runner.close()
        self.pool.close()
