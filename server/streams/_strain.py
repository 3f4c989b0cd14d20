"""Whether the engine keeps up with a live stream. Knows nothing of engines or frames: it is told."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WINDOW_SECONDS = 2.0
FRAMES = 10  # in a window, at least, to say anything
LOST_SHARE = 0.25  # of a window's frames, from which on it is too much


class Strain:
    """Counts what is answered and what is lost; all threads of a session tell it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: clock: seconds."""
        self._clock, self._lock = clock, threading.Lock()
        self._waiting = False
        self.reset()

    def reset(self) -> None:
        """What was so far does not count."""
        with self._lock:
            self._made = self._lost = 0
            self._since = self._clock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the engine is what everything waits for."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def made(self) -> None:
        """A frame was answered."""
        with self._lock:
            self._made += 1

    def lost(self, by_engine: bool = False) -> None:
        """A frame was dropped. If not `by_engine`, it counts only while the engine is waited for, not a codec or the client."""
        with self._lock:
            self._lost += by_engine or self._waiting

    def is_too_much(self) -> bool:
        """Asked often; says yes at the end of a window in which too many frames were lost."""
        with self._lock:
            frames, lost = self._made + self._lost, self._lost
            over = self._clock() - self._since >= WINDOW_SECONDS
        if over:
            self.reset()
        return over and frames >= FRAMES and lost >= LOST_SHARE * frames
