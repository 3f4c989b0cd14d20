"""How things are timed: warmed up, in turn, many times; and how what came of it is told."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

Work = Callable[[int], float]
"""Does something so many times and gives the wall milliseconds of one time."""

Spread = dict[str, float]
"""median, min and max over the rounds."""

MOST_CALLS = 1000  # of one thing in one round


F = TypeVar("F")
T = TypeVar("T")


def one_by_one(call: Callable[[], object]) -> Work:
    """The median of calls that each wait for the one before: what a lone frame waits."""
    return lambda count: statistics.median(_calls(call, count))


def fastest(call: Callable[[], object]) -> Work:
    """The shortest of such calls: what a device can do."""
    return lambda count: min(_calls(call, count))


def _calls(call: Callable[[], object], count: int) -> list[float]:
    durations = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        durations.append(1000 * (time.perf_counter() - started))
    return durations


def flood(submit: Callable[[F], Future[float]], frames: Sequence[F]) -> Work:
    """The mean while as many frames as there are in `frames` are always on their way: what a frame costs among many."""

    def work(count: int) -> float:
        waiting: deque[tuple[F, Future[float]]] = deque()
        started = time.perf_counter()
        for i in range(count):
            frame = frames[i % len(frames)]
            if len(waiting) == len(frames):
                frame, future = waiting.popleft()
                future.result()
            waiting.append((frame, submit(frame)))
        for _, future in waiting:
            future.result()
        return 1000 * (time.perf_counter() - started) / count

    return work


def paced(work: Work, seconds: float, least: int = 1) -> Callable[[], float]:
    """`work` as often as fits into `seconds`, but `least` times, after a time that is not counted: milliseconds of one time."""
    work(least)  # compiles, allocates, fills caches
    first = work(least)
    count = max(least, min(MOST_CALLS, int(1000 * seconds / first)))

    def measure() -> float:
        work(least)  # the caches were someone else's
        return work(count)

    return measure


def in_turn(measures: Mapping[str, Callable[[], T]], rounds: int, say: Callable[[str], None]) -> dict[str, list[T]]:
    """Takes every measure once a round, in the order given."""
    results: dict[str, list[T]] = {name: [] for name in measures}
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        for name, measure in measures.items():
            results[name].append(measure())
    return results


def spread(values: Sequence[float]) -> Spread:
    """Of the rounds, to 4 digits."""
    return {"median": digits(statistics.median(values)), "min": digits(min(values)), "max": digits(max(values))}


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Of `over` / `under`, taken round by round: what disturbs a whole round disturbs no ratio."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def digits(value: float) -> float:
    """Four significant ones; more is noise."""
    return float(f"{value:.4g}")
