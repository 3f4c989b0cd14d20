"""Whose frame is computed next: deadlines over many streams, with a clock that only the runner moves on."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from engines.batching import PATIENCE_SECONDS, Scheduler, Station
from engines.runner import EngineDeadError, Frame, LateError, Layout, Plane, PlaneFrame


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """Takes some seconds of the clock for a call, and writes down what was computed when."""

    def __init__(self, clock: Clock, first: float, more: float = 0.0, layout: Layout | None = None) -> None:
        """Args: first: seconds of a call of one frame; more: for each further one."""
        self.clock, self.first, self.more = clock, first, more
        self.calls: list[tuple[float, list[int]]] = []
        self.station = Station(self, layout or Layout())

    def infer(self, frames: Sequence[Frame]) -> None:
        self.calls.append((self.clock.now, [int(frame.inputs[0][0]) for frame in frames]))
        self.clock.now += self.first + self.more * (len(frames) - 1)

    def pin(self, memory: Plane) -> None: ...

    def unpin(self, memory: Plane) -> None: ...

    def close(self) -> None: ...

    @property
    def order(self) -> list[int]:
        return [number for _, numbers in self.calls for number in numbers]


def frame(number: int) -> PlaneFrame:
    return PlaneFrame((np.array([number], np.uint8),), (np.zeros(1, np.uint8),))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(clock: Clock) -> Scheduler:
    return Scheduler(0, clock)


def work(scheduler: Scheduler) -> None:
    while scheduler.work():
        pass


def test_what_is_due_first_goes_first_and_a_stream_keeps_its_order(clock: Clock, scheduler: Scheduler) -> None:
    a, b = Timed(clock, 0.01), Timed(clock, 0.01)
    for number in range(3):
        scheduler.submit(a.station, frame(number), clock.now + 0.3 + number / 60)
        scheduler.submit(b.station, frame(10 + number), clock.now + 0.1 + number / 60)
    work(scheduler)
    assert a.order == [0, 1, 2] and b.order == [10, 11, 12]
    assert b.calls[-1][0] < a.calls[0][0]


def test_a_stream_that_asks_for_too_much_holds_others_up_for_no_longer_than_one_call(
    clock: Clock, scheduler: Scheduler
) -> None:
    """50 frames at once that take 0.2 s each and are due together, and a stream of 50 frames a second."""
    slow, quick = Timed(clock, 0.2), Timed(clock, 0.005)
    greedy = [scheduler.submit(slow.station, frame(i), clock.now + 0.15, droppable=True) for i in range(50)]
    waited = []
    for number in range(100):
        sent = clock.now
        done = scheduler.submit(quick.station, frame(number), clock.now + 0.25, droppable=True)
        while not done.done():
            scheduler.work()
        done.result()
        waited.append(clock.now - sent)
        clock.now = max(clock.now, sent + 0.02)
    assert quick.order == list(range(100))
    assert [wait for wait in waited if wait > 0.006] == [pytest.approx(0.205)]
    assert sum(isinstance(one.exception(), LateError) for one in greedy) == 49


def test_late_frames_are_dropped_where_they_may_be_and_computed_where_not(clock: Clock, scheduler: Scheduler) -> None:
    runner = Timed(clock, 0.1)
    live = [scheduler.submit(runner.station, frame(i), clock.now + 0.05, droppable=True) for i in range(3)]
    kept = scheduler.submit(runner.station, frame(9), clock.now + 0.05)
    work(scheduler)
    assert runner.order == [0, 9]
    assert live[0].result() == pytest.approx(0.1) and kept.result() == pytest.approx(0.1)
    for one in live[1:]:
        with pytest.raises(LateError, match="50 ms ago"):
            one.result()


def test_frames_without_a_deadline_are_not_starved(clock: Clock, scheduler: Scheduler) -> None:
    files, live = Timed(clock, 0.01), Timed(clock, 0.02)
    done = scheduler.submit(files.station, frame(0))
    started = clock.now
    while not done.done():
        scheduler.submit(live.station, frame(1), clock.now + 0.1)
        scheduler.work()
    assert clock.now - started < PATIENCE_SECONDS + 0.1


def test_batches_form_over_streams_and_are_no_larger_than_the_first_deadline_allows(clock: Clock, scheduler: Scheduler) -> None:
    runner = Timed(clock, 0.010, 0.004, Layout(batch=8))
    for number in range(8):  # nobody is in a hurry: all go together
        scheduler.submit(runner.station, frame(number), clock.now + 1)
    work(scheduler)
    assert [len(numbers) for _, numbers in runner.calls] == [8]
    runner.calls.clear()
    runner.station.took(1, 0.010)
    for count in range(2, 8):
        runner.station.took(count, 0.010 + 0.004 * (count - 1))
    for number in range(8):  # the first one can afford three companions
        scheduler.submit(runner.station, frame(number), clock.now + (0.023 if number == 0 else 1))
    work(scheduler)
    assert [numbers for _, numbers in runner.calls] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_an_idle_device_does_not_wait_for_a_batch(clock: Clock, scheduler: Scheduler) -> None:
    runner = Timed(clock, 0.01, layout=Layout(batch=8))
    submitted = clock.now
    scheduler.submit(runner.station, frame(0), clock.now + 10)
    scheduler.work()
    assert runner.calls == [(submitted, [0])]


def test_cancelled_frames_are_not_computed(clock: Clock, scheduler: Scheduler) -> None:
    runner = Timed(clock, 0.01)
    futures = [scheduler.submit(runner.station, frame(i), clock.now + 1) for i in range(3)]
    assert futures[1].cancel()
    work(scheduler)
    assert runner.order == [0, 2]


def test_a_lost_device_fails_what_it_computed_and_nothing_else_is_swallowed(clock: Clock, scheduler: Scheduler) -> None:
    runner = Timed(clock, 0.01)

    def lost(frames: Sequence[Frame]) -> None:
        raise EngineDeadError("the card fell off the bus")

    runner.infer = lost  # type: ignore[method-assign]
    future = scheduler.submit(runner.station, frame(0))
    scheduler.work()
    with pytest.raises(EngineDeadError, match="fell off"):
        future.result()


def test_runners_share_the_device() -> None:
    """One that fills the device runs alone; those with two lanes run in twos."""
    lock, running, most, alone = threading.Lock(), [], [0], []

    class Counting(Timed):
        def infer(self, frames: Sequence[Frame]) -> None:
            with lock:
                running.append(self)
                most[0] = max(most[0], len(running))
                alone.append(self.station.layout.lanes > 1 or len(running) == 1)
            threading.Event().wait(0.002)
            with lock:
                running.remove(self)

    scheduler = Scheduler(4)
    whole, half = Counting(Clock(), 0), Counting(Clock(), 0, layout=Layout(lanes=2))
    futures: list[Future[float]] = []
    for number in range(40):
        futures.append(scheduler.submit((whole if number % 4 == 0 else half).station, frame(number)))
    for future in futures:
        future.result(30)
    scheduler.close()
    assert most[0] == 2 and all(alone)


def test_who_is_told_that_a_frame_is_late_may_submit_the_next_one() -> None:
    """From another thread's view: no lock is held while futures are settled."""
    clock = Clock()
    scheduler, runner = Scheduler(0, clock), Timed(clock, 0.01)
    told = []

    def tell(future: Future[float]) -> None:
        thread = threading.Thread(target=lambda: told.append(scheduler.submit(runner.station, frame(1))))
        thread.start()
        thread.join(10)

    scheduler.submit(runner.station, frame(0), clock.now - 1, droppable=True).add_done_callback(tell)
    work(scheduler)
    assert told and told[0].result(0) > 0
