"""Which frame a device computes next: the one that is due first, of all streams and all runners, and others with it.

Nothing waits for a batch to fill: an idle device takes what there is, and batches form by themselves while it is busy. They
grow only as long as the frame that is due first can still be on time.
"""

import threading
import time
from bisect import insort
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from fractions import Fraction

from engines.runner import Frame, InferenceError, LateError, Layout, Runner

PATIENCE_SECONDS = 1.0
"""When a frame without a deadline is due, after it was submitted: live frames go first, but not for ever."""

SMOOTHING = 0.2  # weight of the latest call in what a call is expected to take


@dataclass(eq=False)
class Station:
    """A runner, and what its calls have taken so far."""

    runner: Runner
    layout: Layout
    _seconds: dict[int, float] = field(default_factory=dict)  # of a call with so many frames, smoothed

    @property
    def share(self) -> Fraction:
        """What one call takes of the device: the runner's lanes fill it."""
        return Fraction(1, self.layout.lanes)

    def expected(self, frames: int) -> float:
        """Seconds that a call with so many frames will take; what was never tried is thought to cost what single frames do."""
        return self._seconds.get(frames, frames * self._seconds.get(1, 0.0))

    def took(self, frames: int, seconds: float) -> None:
        """Learns from a call."""
        known = self._seconds.setdefault(frames, seconds)
        self._seconds[frames] = known + SMOOTHING * (seconds - known)


@dataclass(order=True)
class _Waiting:
    """A frame in the queue; the order is that of leaving it."""

    due: float
    number: int
    station: Station = field(compare=False)
    frame: Frame = field(compare=False)
    droppable: bool = field(compare=False)
    future: Future[float] = field(compare=False, default_factory=Future)


class Scheduler:
    """Threads between the frames that wait for a device and the runners on it."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        workers: threads, so calls at once; with 0, who calls `work` does it.
        clock: seconds.
        """
        self._clock, self._numbers = clock, 0
        self._queue: list[_Waiting] = []
        self._free, self._closed = Fraction(1), False
        self._changed = threading.Condition()
        self.batches: dict[int, int] = {}
        """How many calls had so many frames."""
        self._threads = [threading.Thread(target=self._run, name=f"infer-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, station: Station, frame: Frame, deadline: float | None = None, droppable: bool = False) -> Future[float]:
        """Queues a frame.

        Args:
            station: where it is computed.
            frame: to read from and to fill.
            deadline: when it is due, by the clock; None: it has time.
            droppable: it need not be computed once its deadline has passed.

        Returns:
            The seconds that its call took, or what that raised; LateError if it was not computed. Cancelling it takes it out
            of the queue.
        """
        with self._changed:
            due = self._clock() + PATIENCE_SECONDS if deadline is None else deadline
            waiting = _Waiting(due, self._numbers, station, frame, droppable)
            self._numbers += 1
            insort(self._queue, waiting)
            self._changed.notify_all()
        return waiting.future

    def waiting(self) -> int:
        """Frames in the queue."""
        with self._changed:
            return len(self._queue)

    def close(self) -> None:
        """Ends the threads after the calls that run now; frames that still wait are cancelled."""
        with self._changed:
            self._closed = True
            waiting, self._queue = self._queue, []
            self._changed.notify_all()
        for one in waiting:
            one.future.cancel()
        for thread in self._threads:
            thread.join()

    def work(self, wait: bool = False) -> bool:
        """Computes the frames that may go now; False if there are none, with `wait` only once there will never be any."""
        with self._changed:
            batch, late = self._next()
            while not (batch or late):
                if self._closed or not wait:
                    return False
                self._changed.wait()
                batch, late = self._next()
            share = batch[0].station.share if batch else Fraction(0)
            self._free -= share
        try:  # without the lock: whoever waits for a frame is told right here, and may take locks of its own
            for one in late:
                _drop(one, self._clock())
            if batch:
                self._infer(batch)
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()
        return True

    def _run(self) -> None:
        while self.work(wait=True):
            pass

    def _next(self) -> tuple[list[_Waiting], list[_Waiting]]:
        """Takes out of the queue the frame that is due first, if its turn has come, with those that may leave with it; and the
        late ones before it."""
        now, late = self._clock(), list[_Waiting]()
        while self._queue:
            first = self._queue[0]
            if first.future.cancelled():
                self._queue.pop(0)
            elif first.droppable and first.due < now:
                late.append(self._queue.pop(0))
            elif first.station.share > self._free:
                break
            elif batch := [one for one in self._batch(first, now) if one.future.set_running_or_notify_cancel()]:
                self.batches[len(batch)] = self.batches.get(len(batch), 0) + 1
                return batch, late
        return [], late

    def _batch(self, first: _Waiting, now: float) -> list[_Waiting]:
        station, slack = first.station, first.due - now
        hopeless = station.expected(1) > slack  # it will be late anyway: the more leave with it, the better for the others
        batch = list[_Waiting]()
        for one in [one for one in self._queue if one.station is station]:
            fits = hopeless or station.expected(len(batch) + 1) <= slack
            if len(batch) == station.layout.batch or (batch and not fits):
                break
            self._queue.remove(one)
            batch.append(one)
        return batch

    def _infer(self, batch: list[_Waiting]) -> None:
        station, started = batch[0].station, self._clock()
        try:
            station.runner.infer([one.frame for one in batch])
        except InferenceError as error:
            if len(batch) > 1:  # one bad frame, or no memory for so many: each is tried on its own
                for one in batch:
                    self._infer([one])
            else:
                batch[0].future.set_exception(error)
        except Exception as error:  # whatever it is, it belongs to whoever waits for these frames
            for one in batch:
                one.future.set_exception(error)
        else:
            seconds = self._clock() - started
            with self._changed:
                station.took(len(batch), seconds)
            for one in batch:
                one.future.set_result(seconds)


def _drop(late: _Waiting, now: float) -> None:
    if late.future.set_running_or_notify_cancel():
        late.future.set_exception(LateError(f"the frame was due {1000 * (now - late.due):.0f} ms ago"))


class Lanes:
    """A scheduler for one runner that has a device to itself, and frames that are all alike."""

    def __init__(self, runner: Runner, layout: Layout) -> None:
        self._station, self._scheduler = Station(runner, layout), Scheduler(layout.lanes)

    def submit(self, frame: Frame) -> Future[float]:
        """Queues a frame; see `Scheduler.submit`."""
        return self._scheduler.submit(self._station, frame)

    def close(self) -> None:
        """See `Scheduler.close`."""
        self._scheduler.close()
