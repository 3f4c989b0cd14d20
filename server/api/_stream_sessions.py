"""How many sessions there are, and whose. Knows nothing of what happens in them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from server.access import Caller
from server.errors import ServiceError
from server.metrics import Metrics
from server.settings import Settings

RETRY_SECONDS = 5


class Sessions:
    """The open WebSocket sessions of the service."""

    def __init__(self, settings: Settings, metrics: Metrics, keyed: bool) -> None:
        """Args:
        settings: see max_streams and max_streams_per_key.
        metrics: where the number is shown.
        keyed: callers are told apart, so that each has a limit.
        """
        self._most, self._most_of_one, self._keyed = settings.max_streams, settings.max_streams_per_key, keyed
        self._active = metrics.streams_active.labels("websocket")
        metrics.streams_limit.labels("websocket").set(settings.max_streams)
        self._places: set[int] = set()
        self._callers: Counter[str] = Counter()

    @contextmanager
    def place(self, caller: Caller) -> Iterator[int]:
        """Takes a place for a session; gives its number, the lowest that is free, from 1 on.

        Raises:
            ServiceError: quota: the caller has as many sessions as it may; busy: the service has.
        """
        most = caller.limits.streams or (self._most_of_one if self._keyed else self._most)
        if self._callers[caller.name] >= most:
            text = f"{caller.name} has {most} sessions, as many as it may; end one first"
            raise ServiceError("quota", text, retry_after=RETRY_SECONDS)
        if len(self._places) >= self._most:
            raise ServiceError("busy", f"there are {self._most} sessions, as many as may be", retry_after=RETRY_SECONDS)
        number = next(number for number in range(1, self._most + 1) if number not in self._places)
        self._places.add(number)
        self._callers[caller.name] += 1
        self._active.inc()
        try:
            yield number
        finally:
            self._active.dec()
            self._callers[caller.name] -= 1
            self._places.remove(number)
