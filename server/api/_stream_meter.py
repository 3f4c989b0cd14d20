"""What became of each frame of a session, by its sequence number. Knows nothing of sockets or workers."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from server.meter import Meter
from server.metrics import Metrics


class SessionMeter:
    """Counts one session's frames, and remembers when each of them came."""

    def __init__(
        self, metrics: Metrics, name: str, model: str, budget_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """See `Meter`."""
        self._meter, self._clock = Meter(metrics, "websocket", name, model, budget_seconds, clock), clock
        self._arrivals: dict[int, float] = {}
        self.switched = self._meter.switch

    def arrived(self, sequence: int) -> float:
        """A frame came; gives the time."""
        now = self._arrivals[sequence] = self._clock()
        self._meter.take()
        return now

    def seconds_inside(self, sequence: int) -> float:
        """Since the frame came."""
        return self._clock() - self._arrivals[sequence]

    def delivered(self, sequence: int, stages: Iterable[float], send_seconds: float) -> None:
        """A frame was answered.

        Args:
            sequence: its number.
            stages: seconds of each of `protocol.STAGE_NAMES`.
            send_seconds: until the socket had taken it.
        """
        self._meter.deliver(self._clock() - self._arrivals.pop(sequence), (*stages, send_seconds))

    def dropped(self, sequences: Iterable[int], reason: str) -> None:
        """Frames will not be answered."""
        for sequence in sequences:
            del self._arrivals[sequence]
            self._meter.drop(reason)

    def failed(self, sequence: int) -> None:
        """A frame could not be upscaled."""
        del self._arrivals[sequence]
        self._meter.fail()

    def stats(self) -> dict[str, Any]:
        """What a client is told now and then, of the time since it was told last."""
        return {"type": "stats", **self._meter.stats(), "model": self._meter.model}

    def close(self, reason: str) -> None:
        """The session is over; what was not answered by now is dropped for this reason."""
        self.dropped(list(self._arrivals), reason)
        self._meter.close()
