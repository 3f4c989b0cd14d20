"""Threads between a queue of frames and a runner: each takes what waits, up to a batch, as soon as it is free.

Nothing waits for a batch to fill: a lone frame leaves at once, and batches form by themselves when frames come faster than they
are computed.
"""

import threading
import time
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from engines.runner import Frame, InferenceError, Layout, Runner

_Waiting = tuple[Frame, Future[float]]


class Lanes:
    """One thread for each `infer` call that a runner takes at once."""

    def __init__(self, runner: Runner, layout: Layout) -> None:
        self._runner, self._batch = runner, layout.batch
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"infer-{i}", daemon=True) for i in range(layout.lanes)]
        for thread in self._threads:
            thread.start()

    def submit(self, frame: Frame) -> Future[float]:
        """Queues a frame; the future gives the seconds that its `infer` call took, or raises what that raised."""
        future: Future[float] = Future()
        self._queue.put((frame, future))
        return future

    def close(self) -> None:
        """Ends the threads after the calls that run now; frames that still wait are cancelled."""
        while (waiting := self._next(block=False)) is not None:
            waiting[1].cancel()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (first := self._next(block=True)) is not None:
            batch = [first]
            while len(batch) < self._batch and (more := self._next(block=False)) is not None:
                batch.append(more)
            self._infer(batch)

    def _next(self, block: bool) -> _Waiting | None:
        """The frame that has waited longest. None: there is none, or this thread is to end."""
        try:
            waiting = self._queue.get(block)
        except Empty:
            return None
        if waiting is None and not block:
            self._queue.put(None)  # another thread's
        return waiting

    def _infer(self, batch: list[_Waiting]) -> None:
        started = time.perf_counter()
        try:
            self._runner.infer([frame for frame, _ in batch])
        except InferenceError as error:
            if len(batch) > 1:  # one bad frame, or no memory for so many: each is tried on its own
                for waiting in batch:
                    self._infer([waiting])
            else:
                batch[0][1].set_exception(error)
        except Exception as error:  # whatever it is, it belongs to whoever waits for these frames
            for _, future in batch:
                future.set_exception(error)
        else:
            seconds = time.perf_counter() - started
            for _, future in batch:
                future.set_result(seconds)
