"""What became of each frame of a session, told to Prometheus and to the client. Knows nothing of sockets or workers."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from server.metrics import Metrics
from server.streams.protocol import STAGE_NAMES

KIND = "websocket"

LATENCIES = 300
"""Of the latest frames, which percentiles are taken of."""


class Meter:
    """Counts one session's frames, by their sequence numbers."""

    def __init__(
        self, metrics: Metrics, name: str, model: str, budget_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args:
        metrics: where everything is counted.
        name: of the session, for its own gauges.
        model: that it starts with.
        budget_seconds: from a frame's bytes in to its bytes out; what takes longer misses its deadline.
        clock: seconds.
        """
        self._metrics, self._name, self._label = metrics, name, metrics.stream_label(name)
        self.model, self._budget_seconds, self._clock = model, budget_seconds, clock
        metrics.streams_by_model.labels(KIND, model).inc()
        self._arrivals: dict[int, float] = {}
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._drops: Counter[str] = Counter()
        self._in = self._out = 0  # frames since `_told`
        self._told = clock()

    def arrived(self, sequence: int) -> float:
        """A frame came; gives the time."""
        now = self._arrivals[sequence] = self._clock()
        self._in += 1
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
        seconds = self._clock() - self._arrivals.pop(sequence)
        self._latencies.append(seconds)
        self._out += 1
        self._metrics.frames_total.labels(KIND, "delivered").inc()
        self._metrics.frame_latency_seconds.labels(KIND).observe(seconds)
        if seconds > self._budget_seconds:
            self._metrics.deadline_misses_total.labels(KIND).inc()
        for stage, spent in zip((*STAGE_NAMES, "send"), (*stages, send_seconds), strict=True):
            self._metrics.stage_seconds.labels(stage).observe(spent)

    def dropped(self, sequences: Iterable[int], reason: str) -> None:
        """Frames will not be answered."""
        for sequence in sequences:
            del self._arrivals[sequence]
            self._drops[reason] += 1
            self._metrics.frames_total.labels(KIND, "dropped").inc()
            self._metrics.frames_dropped_total.labels(KIND, reason).inc()

    def failed(self, sequence: int) -> None:
        """A frame could not be upscaled."""
        del self._arrivals[sequence]
        self._metrics.frames_total.labels(KIND, "failed").inc()

    def switched(self, model: str, reason: str) -> None:
        """Frames are upscaled by another model from now on."""
        if model != self.model:
            self._metrics.model_switches_total.labels(self.model, model, reason).inc()
            self._metrics.streams_by_model.labels(KIND, self.model).dec()
            self._metrics.streams_by_model.labels(KIND, model).inc()
            self.model = model

    def stats(self) -> dict[str, Any]:
        """What a client is told now and then, of the time since it was told last."""
        seconds = max(1e-6, self._clock() - self._told)
        fps = {"in": round(self._in / seconds, 2), "out": round(self._out / seconds, 2)}
        self._told, self._in, self._out = self._clock(), 0, 0
        latency_ms = self._percentiles_ms()
        for direction, value in fps.items():
            self._metrics.stream_fps.labels(self._label, direction).set(value)
        for statistic, milliseconds in latency_ms.items():
            if milliseconds is not None:
                self._metrics.stream_latency_seconds.labels(self._label, statistic).set(milliseconds / 1000)
        words = {"type": "stats", "fps_in": fps["in"], "fps_out": fps["out"], "latency_ms": latency_ms}
        return {**words, "drops": dict(self._drops), "model": self.model}

    def close(self, reason: str) -> None:
        """The session is over; what was not answered by now is dropped for this reason."""
        self.dropped(list(self._arrivals), reason)
        self._metrics.streams_by_model.labels(KIND, self.model).dec()
        self._metrics.forget_stream(self._name)

    def _percentiles_ms(self) -> dict[str, float | None]:
        """Null before the first answer."""
        names = {"p50": 50, "p95": 95, "p99": 99}
        if not self._latencies:
            return dict.fromkeys(names)
        values = np.percentile(list(self._latencies), list(names.values()))
        return {name: round(float(value) * 1000, 2) for name, value in zip(names, values, strict=True)}
