"""What became of the frames of one live stream, told to Prometheus and to whoever asks. Knows nothing of how they travel."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

from server.metrics import Metrics
from server.streams.protocol import STAGE_NAMES

log = logging.getLogger(__name__)

StreamKind = Literal["websocket", "relay"]

LATENCIES = 300
"""Of the latest frames, which percentiles are taken of."""


class Meter:
    """Counts one stream's frames."""

    def __init__(
        self,
        metrics: Metrics,
        kind: StreamKind,
        name: str,
        model: str,
        budget_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        metrics: where everything is counted.
        kind: of stream, as the metrics call it.
        name: of the stream, for its own gauges.
        model: that it starts with.
        budget_seconds: from a frame's bytes in to its bytes out; what takes longer misses its deadline.
        clock: seconds.
        """
        self._metrics, self._kind, self._name, self._label = metrics, kind, name, metrics.stream_label(name)
        self.model, self._budget_seconds, self._clock = model, budget_seconds, clock
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self.drops: Counter[str] = Counter()
        self.taken = self.delivered = self.failed = 0  # frames
        self._told, self._told_taken, self._told_delivered = clock(), 0, 0

    def take(self, frames: int = 1) -> None:
        """Frames came."""
        self.taken += frames

    def deliver(self, seconds: float, stages: Iterable[float]) -> None:
        """A frame left.

        Args:
            seconds: from its bytes in to its bytes out.
            stages: seconds of each of `protocol.STAGE_NAMES`, and of sending it.
        """
        self._latencies.append(seconds)
        self.delivered += 1
        self._metrics.frames_total.labels(self._kind, "delivered").inc()
        self._metrics.frame_latency_seconds.labels(self._kind).observe(seconds)
        if seconds > self._budget_seconds:
            self._metrics.deadline_misses_total.labels(self._kind).inc()
        for stage, spent in zip((*STAGE_NAMES, "send"), stages, strict=True):
            self._metrics.stage_seconds.labels(stage).observe(spent)

    def drop(self, reason: str, frames: int = 1) -> None:
        """Frames will not be delivered."""
        self.drops[reason] += frames
        self._metrics.frames_total.labels(self._kind, "dropped").inc(frames)
        self._metrics.frames_dropped_total.labels(self._kind, reason).inc(frames)

    def fail(self, frames: int = 1) -> None:
        """Frames could not be upscaled."""
        self.failed += frames
        self._metrics.frames_total.labels(self._kind, "failed").inc(frames)

    def switch(self, model: str, reason: str) -> None:
        """Frames are upscaled by another model from now on."""
        if model != self.model:
            log.info("%s is upscaled by %s now, not %s: %s", self._name, model, self.model, reason)
            self._metrics.model_switches_total.labels(self.model, model, reason).inc()
            self.model = model

    def stats(self) -> dict[str, Any]:
        """How it goes: frames per second since this was asked last, latency of the latest frames, all drops."""
        now = self._clock()
        seconds = max(1e-6, now - self._told)
        fps = {
            "in": round((self.taken - self._told_taken) / seconds, 2),
            "out": round((self.delivered - self._told_delivered) / seconds, 2),
        }
        self._told, self._told_taken, self._told_delivered = now, self.taken, self.delivered
        latency_ms = self._percentiles_ms()
        for direction, value in fps.items():
            self._metrics.stream_fps.labels(self._label, direction).set(value)
        for statistic, milliseconds in latency_ms.items():
            if milliseconds is not None:
                self._metrics.stream_latency_seconds.labels(self._label, statistic).set(milliseconds / 1000)
        return {"fps_in": fps["in"], "fps_out": fps["out"], "latency_ms": latency_ms, "drops": dict(self.drops)}

    def close(self) -> None:
        """The stream is over."""
        self._metrics.forget_stream(self._name)

    def _percentiles_ms(self) -> dict[str, float | None]:
        """Null before the first answer."""
        names = {"p50": 50, "p95": 95, "p99": 99}
        if not self._latencies:
            return dict.fromkeys(names)
        values = np.percentile(list(self._latencies), list(names.values()))
        return {name: round(float(value) * 1000, 2) for name, value in zip(names, values, strict=True)}
