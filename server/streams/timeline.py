"""Time of a live stream: from the time stamps of whoever publishes just now to those that viewers see, which never jump.

A publisher's clock may start anywhere, wrap after 32 bits, be set, or belong to another publisher after a reconnection.
Pictures and sound are placed by the same line as long as their stamps agree with the wall clock, so that they stay together
to the millisecond. Knows nothing of what is placed.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

START_MS = 1000
"""Where viewers' time starts: what comes first may be a little later than what comes next."""

JUMP_MS = 1000
"""From how far on a stamp disagrees with the wall clock, and stands for a new line."""

FIT_MS = 250
"""Up to how far on a stamp is as late as networks make it; beyond that it is old, or of another publisher."""

LINES = 2
"""That are remembered: where clocks jump, pictures of the new line and sound of the old one come mixed."""


@dataclass
class _Line:
    """Stamps that belong together, by the one that came last."""

    stamp: int  # ms, 32 bits
    placed: int  # ms of viewers
    at: float  # seconds, when it came


class Timeline:
    """Places stamps of 32 bits in milliseconds. One thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: clock: seconds."""
        self._clock = clock
        self._lines: deque[_Line] = deque(maxlen=LINES)
        self._restarts = False

    def restart(self) -> None:
        """Another publisher follows: its stamps have nothing to do with those before, even where they look so."""
        self._restarts = True

    def fits(self, stamp: int) -> bool:
        """Whether a stamp that came now may go on where those before it stopped, as much later as time has passed."""
        if self._restarts or not self._lines:
            return True
        now = self._clock()
        return any(abs(line.placed + _difference(stamp, line.stamp) - _expected(line, now)) <= FIT_MS for line in self._lines)

    def place(self, stamp: int) -> int:
        """Milliseconds of viewers' time for a stamp that came now."""
        now = self._clock()
        if not self._restarts:
            for line in self._lines:
                placed = line.placed + _difference(stamp, line.stamp)
                if abs(placed - _expected(line, now)) <= JUMP_MS:
                    line.stamp, line.placed, line.at = stamp, placed, now
                    return placed
        placed = round(_expected(self._lines[0], now)) if self._lines else START_MS
        if self._restarts:
            self._lines.clear()
            self._restarts = False
        self._lines.appendleft(_Line(stamp, placed, now))
        return placed


def _expected(line: _Line, now: float) -> float:
    return line.placed + 1000 * (now - line.at)


def _difference(stamp: int, before: int) -> int:
    """Of two stamps that may have wrapped in between."""
    return (stamp - before + (1 << 31)) % (1 << 32) - (1 << 31)
