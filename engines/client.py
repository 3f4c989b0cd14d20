"""An engine in a process of its own, as its caller sees it: a crash there is an error here, not the end.

The other side is `engines.service`. Only slot numbers travel between the two; frames lie in shared memory.
"""

import multiprocessing
import threading
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.reduction import send_handle
from types import TracebackType
from typing import Self

from engines.runner import EngineDeadError, EngineSpec, InferenceError
from engines.service import serve
from engines.slots import Slot, SlotPool

STOP_SECONDS = 5.0
"""How long a stopping engine process may take before it is killed."""


class ProcessEngine:
    """The caller's side of an engine process; see `engines.engine.Engine`."""

    def __init__(self, backend: str, spec: EngineSpec, slots: int) -> None:
        """Starts the process and waits until its runner is ready.

        Raises:
            EngineDeadError: it could not start; the message says why.
        """
        self.pool = SlotPool(spec, slots)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, backend, spec, slots), name="fourfold-engine", daemon=True)
        self.process.start()
        theirs.close()
        self._pending: dict[int, Future[float]] = {}
        self._lock = threading.Lock()
        self._dead = False
        try:
            send_handle(self._connection, self.pool.descriptor, self.process.pid)
            failure = self._connection.recv()
        except (EOFError, OSError) as error:
            failure = f"its process ended with exit code {self._exit_code()} ({type(error).__name__})"
        if failure:
            self._end()
            raise EngineDeadError(f"the engine could not start: {failure}")
        self._reader = threading.Thread(target=self._read, name="engine-answers", daemon=True)
        self._reader.start()

    def submit(self, slot: Slot) -> Future[float]:
        """See `engines.engine.Engine.submit`."""
        future: Future[float] = Future()
        with self._lock:
            if self._dead:
                raise EngineDeadError("the engine process is gone")
            self._pending[slot.number] = future
        with suppress(OSError):  # the reader sees the same broken pipe and fails every pending future, this one too
            self._connection.send(slot.number)
        return future

    def _read(self) -> None:
        """Hands answers to their futures until the process is gone."""
        try:
            while True:
                number, seconds, failure = self._connection.recv()
                with self._lock:
                    future = self._pending.pop(number)
                if failure:
                    future.set_exception(InferenceError(failure))
                else:
                    future.set_result(seconds)
        except (EOFError, OSError):
            with self._lock:
                self._dead = True
                pending, self._pending = self._pending, {}
            for future in pending.values():
                future.set_exception(EngineDeadError(f"the engine process ended with exit code {self._exit_code()}"))

    def _exit_code(self) -> int | None:
        self.process.join(STOP_SECONDS)
        return self.process.exitcode

    def _end(self) -> None:
        self._connection.close()
        self.pool.close()
        self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            gone = self._dead
        if not gone:
            self._connection.send(None)
        self._reader.join(STOP_SECONDS)
        self._end()
