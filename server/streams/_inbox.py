"""Where the frames of a live stream wait: bounded, and either patient or always fresh.

Knows nothing of what the items are.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - not an error, but the end of a loop
    """There is nothing more to come."""


class Inbox(Generic[T]):
    """A queue between two threads."""

    def __init__(self, limit: int, evicts: bool) -> None:
        """Args:
        limit: items that may wait.
        evicts: a new item pushes the oldest one out when there is no room; otherwise it waits for room.
        """
        self._items: deque[T] = deque()
        self._limit, self._evicts, self._closed = limit, evicts, False
        self._changed = threading.Condition()

    def put(self, item: T) -> T | None:
        """Adds an item, and gives the one that had to go for it. Once closed, it does nothing."""
        with self._changed:
            if not self._evicts:
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._limit)
            evicted = self._items.popleft() if len(self._items) >= self._limit else None
            return self._add(item, evicted)

    def put_last(self, item: T) -> None:
        """Adds what must not be lost, however many wait."""
        with self._changed:
            self._add(item, None)

    def get(self, seconds: float | None = None) -> T:
        """The oldest item; waits until there is one.

        Args:
            seconds: to wait at most; None: for ever.

        Raises:
            Closed: see there.
            TimeoutError: there is none.
        """
        with self._changed:
            came = self._changed.wait_for(lambda: self._closed or self._items, seconds)
            if self._closed:
                raise Closed
            if not came:
                raise TimeoutError
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def any(self, test: Callable[[T], bool]) -> bool:
        """Whether one of the items that wait passes the test."""
        with self._changed:
            return any(map(test, self._items))

    def close(self) -> None:
        """Ends all waiting; what is left is forgotten."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _add(self, item: T, evicted: T | None) -> T | None:
        if not self._closed:
            self._items.append(item)
            self._changed.notify_all()
        return evicted


class Allowance:
    """Tokens that come at a steady rate and can be saved up: how fast frames may come."""

    def __init__(self, per_second: float, most: float) -> None:
        self._per_second, self._most = per_second, most
        self._saved, self._last = most, 0.0

    def take(self, now: float) -> bool:
        """Takes one token, if there is one. `now` in seconds, never less than before."""
        self._saved = min(self._most, self._saved + (now - self._last) * self._per_second)
        self._last = now
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
