"""How busy all processes of this service keep the processor, over the last seconds. Knows nothing of streams."""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

WINDOW = 5
"""Samples that are looked back: seconds, as a sample is taken once a second."""


class Load:
    """The share of the processor time of its cores that the service took."""

    def __init__(self, measure: Callable[[], float] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        measure: seconds of processor time that were taken so far.
        clock: seconds.
        """
        self._measure, self._clock = measure or processor_seconds, clock
        self._cores = len(os.sched_getaffinity(0))
        self._samples: deque[tuple[float, float]] = deque(maxlen=WINDOW + 1)

    @property
    def share(self) -> float:
        """From 0 to 1, of the last WINDOW samples; 0 as long as there are not so many."""
        if len(self._samples) <= WINDOW:
            return 0.0
        (began, before), (ended, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / max(1e-6, ended - began) / self._cores)

    def sample(self) -> None:
        """Looks once more; may block."""
        self._samples.append((self._clock(), self._measure()))

    def forget(self) -> None:
        """What was measured is too old to be of use."""
        self._samples.clear()


def processor_seconds() -> float:
    """Seconds that this process and all below it have taken, those that have ended included."""
    total, left = 0, [os.getpid()]
    while left:
        process = Path("/proc") / str(left.pop())
        with suppress(OSError):  # it ended meanwhile
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # utime, stime, and those of children that were waited for
            for children in process.glob("task/*/children"):
                left += map(int, children.read_text().split())
    return total / os.sysconf("SC_CLK_TCK")
