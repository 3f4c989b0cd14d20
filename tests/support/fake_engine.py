"""An engine process that does what a test wants: slow, failing, hanging, dead and back again.

It answers with the nearest pixel plus a mark, so that a test sees which frames it computed.
"""

import threading
import time
from concurrent.futures import Future
from queue import SimpleQueue

import numpy as np

from engines.host import EngineReady, EngineRequest
from engines.runner import EngineDeadError, EngineRefusedError, InferenceError, LateError
from engines.slots import FrameFormat, Slot, SlotPool


class FakeHost:
    """Stands for the engine process; `connect` for `RemoteEngine`."""

    def __init__(self, seconds: float = 0.0, mark: int = 100) -> None:
        self.seconds = seconds  # that each frame takes
        self.heavy: dict[str, float] = {}  # and more for some models
        self.mark = mark  # added to each pixel
        self.up, self.refuses = True, False
        self.fails = frozenset[int]()  # how many frames came before those that fail
        self.going = threading.Event()  # cleared, it hangs
        self.going.set()
        self.requests: list[EngineRequest] = []
        self.engines: list[FakeEngine] = []

    def connect(self, address: str, request: EngineRequest) -> "FakeEngine":
        self.requests.append(request)
        self.going.wait(60)
        if not self.up:
            raise EngineDeadError("nobody listens")
        if self.refuses:
            raise EngineRefusedError("no such network")
        engine = FakeEngine(self, request)
        self.engines.append(engine)
        return engine

    def kill(self) -> None:
        """The process is gone, and all that its clients had there."""
        self.up = False
        for engine in self.engines:
            engine.die()
        self.going.set()


class FakeEngine:
    """One client's engine."""

    def __init__(self, host: FakeHost, request: EngineRequest) -> None:
        name, scale, form = request.graphs.rsplit("-", 2)
        assert form in ("rgb", "yuv420")
        self.ready = EngineReady(f"{name}-{scale}", form, int(scale[1:]), "fake", "fp32", "none")
        self.pool = SlotPool(FrameFormat(form, int(scale[1:]), request.width, request.height), request.slots)
        self.frames, self.closed, self._name = 0, False, name
        self._host, self._dead, self._lock = host, False, threading.RLock()
        self._queue = SimpleQueue[tuple[Slot, float | None, bool, Future[float]] | None]()
        self._pending = list[Future[float]]()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, slot: Slot, deadline: float | None = None, droppable: bool = False) -> Future[float]:
        if self._dead:
            raise EngineDeadError("it died")
        future = Future[float]()
        self._pending.append(future)
        self._queue.put((slot, deadline, droppable, future))
        return future

    def die(self) -> None:
        with self._lock:
            self._dead = True
            for future in self._pending:
                if not future.done():
                    future.set_exception(EngineDeadError("it died"))

    def close(self) -> None:
        self.closed = True
        self._queue.put(None)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            slot, deadline, droppable, future = item
            self._host.going.wait(60)
            late = droppable and deadline is not None and time.monotonic() > deadline
            time.sleep(0 if late else self._host.seconds + self._host.heavy.get(self._name, 0.0))
            with self._lock:
                if self._dead:
                    return
                self._answer(slot, late, future)

    def _answer(self, slot: Slot, late: bool, future: Future[float]) -> None:
        number, self.frames = self.frames, self.frames + 1
        if late:
            future.set_exception(LateError("too late"))
        elif number in self._host.fails:
            future.set_exception(InferenceError("not this one"))
        else:
            self._compute(slot)
            future.set_result(self._host.seconds)

    def _compute(self, slot: Slot) -> None:
        for source, target in zip(slot.inputs, slot.outputs, strict=True):
            rows, columns = (np.arange(size) // self.ready.scale for size in target.shape[:2])
            target[...] = source[rows][:, columns] + np.uint8(self._host.mark)
