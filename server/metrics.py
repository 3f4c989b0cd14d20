"""Every metric of the service, declared in one place.

Only the api process has them: workers and the engine's process send it what they measured, so there are no files that
several processes count in.
"""

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import product
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from models.registry import MODELS
from server.cards import CardState
from server.errors import CODES
from server.streams.protocol import DropReason
from server.streams.relay_protocol import RelayDrop, SourceReason

disable_created_metrics()  # type: ignore[no-untyped-call]  # half of all series, and nothing reads them

SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.006, 0.0083, 0.0125, 0.0167, 0.025, 0.0333, 0.05, 0.0667, 0.1),
    *(0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Bucket edges: fine up to 100 ms; 8.3, 16.7 and 33.3 ms are the frame times of 120, 60 and 30 frames/s."""

FRAMES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

NAMED_STREAMS = 100
"""Streams that have gauges of their own at one time."""
OTHER = "other"
"""The label that those beyond share."""

OUTCOMES = ("delivered", "dropped", "failed")

DROPS: dict[str, tuple[str, ...]] = {"websocket": (*get_args(DropReason), "disconnected"), "relay": get_args(RelayDrop)}
"""Kind of a live stream -> why its frames are dropped."""

STEPS_DOWN, STEPS_UP = ("overload", "engine_unavailable"), ("recovered", "engine_back")
"""Why a live stream goes over to a lighter model, and back."""
LIGHTER = ("xlsr", "bicubic")
"""Models that are stepped down to."""

BUILD = (version("fourfold"), platform.python_version())
"""Of Fourfold and of Python; read from disk, so once."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""That have a label; what else clients make up is `other`."""

NO_ROUTE = "(none)"
"""The label of requests that were refused before a route was found for them: no good key, or no such address."""


class Metrics:
    """The metrics and their registry. Labels take few values; `stream_label` bounds those that streams bring."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._streams: set[str] = set()
        self._others: set[str] = set()  # streams that share a label
        self._engine: tuple[str, ...] = ()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fourfold_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"fourfold_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"fourfold_{name}", text, labels, registry=registry, buckets=buckets)

        self.stage_seconds = histogram("stage_seconds", "Seconds of a frame in one stage.", "stage")
        self.frame_latency_seconds = histogram(
            "frame_latency_seconds", "Seconds from a frame's bytes in to its bytes out.", "kind"
        )
        self.frames_total = counter("frames_total", "Frames by what became of them.", "kind", "outcome")
        self.frames_dropped_total = counter("frames_dropped_total", "Frames that were not delivered.", "kind", "reason")
        self.deadline_misses_total = counter("deadline_misses_total", "Live frames that were late.", "kind")
        self.stream_fps = gauge("stream_fps", "Frames per second of a stream.", "stream", "direction")
        self.stream_latency_seconds = gauge("stream_latency_seconds", "Latency of a stream's frames.", "stream", "statistic")
        self.streams_active = gauge("streams_active", "Streams that are open.", "kind")
        self.streams_limit = gauge("streams_limit", "Streams that may be open at once.", "kind")
        self.streams_by_model = gauge("streams_by_model", "Open streams by the model that upscales them now.", "kind", "model")
        self.batch_frames = histogram("batch_frames", "Frames inferred together.", "engine", buckets=FRAMES)
        self.queue_frames = gauge("queue_frames", "Frames that wait.", "queue")
        self.model_switches_total = counter("model_switches_total", "Changes of a stream's model.", "from", "to", "reason")
        self.engine_info = gauge("engine_info", "What the engine runs.", "backend", "precision", "device", "model")
        self.engine_ready = gauge("engine_ready", "1 if the engine answered a real frame lately.")
        self.engine_restarts_total = counter("engine_restarts_total", "Times the engine process was started again.")
        self.rejected_total = counter("rejected_total", "Requests answered with an error, by its code.", "reason")
        self.stream_faults_total = counter("stream_faults_total", "Streams and jobs that failed, by code.", "reason")
        self.reconnects_total = counter("reconnects_total", "Times a stream's source or target was connected again.", "reason")
        self.http_requests_total = counter("http_requests_total", "HTTP requests.", "method", "route", "status")
        self.http_request_seconds = histogram(
            "http_request_seconds", "Seconds from a request's headers to the last byte of its answer.", "method", "route"
        )
        self.jobs = gauge("jobs", "Video jobs that there are.", "state")
        self.disk_free_bytes = gauge("disk_free_bytes", "Free bytes on the disk of the data folder.")
        self.disk_size_bytes = gauge("disk_size_bytes", "Bytes of the disk of the data folder.")
        self.storage_used_bytes = gauge("storage_used_bytes", "Bytes of all uploads and results.")
        self.storage_limit_bytes = gauge("storage_limit_bytes", "Bytes that uploads and results may take.")
        self.gpu_utilization_ratio = gauge("gpu_utilization_ratio", "Share of time in which a card computed.", "device")
        self.gpu_memory_bytes = gauge("gpu_memory_bytes", "Bytes of a card's memory that are taken.", "device")
        self.gpu_memory_total_bytes = gauge("gpu_memory_total_bytes", "Bytes of a card's memory.", "device")
        self.encoder_sessions = gauge("encoder_sessions", "Streams that a card's encoder (NVENC) writes.", "device")
        self.build_info = gauge("build_info", "What runs here.", "version", "python")
        self.build_info.labels(*BUILD).set(1)
        ProcessCollector(registry=registry)  # start, memory, descriptors of this process
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Makes the counters that can be foreseen: Prometheus sees no increase in a series that begins at one."""
        for kind, reasons in DROPS.items():
            self.deadline_misses_total.labels(kind)
            for reason in reasons:
                self.frames_dropped_total.labels(kind, reason)
        for kind in (*DROPS, "image", "video"):
            for outcome in OUTCOMES:
                self.frames_total.labels(kind, outcome)
        for code in CODES:
            self.rejected_total.labels(code)
            self.stream_faults_total.labels(code)
        for reason in (*get_args(SourceReason), "crashed", "busy", "unresolved"):
            self.reconnects_total.labels(reason)
        for model, lighter in product({model.name for model in MODELS}, LIGHTER):
            for down, up in zip(STEPS_DOWN, STEPS_UP, strict=True):
                if model not in (lighter, "bicubic"):
                    self.model_switches_total.labels(model, lighter, down)
                    self.model_switches_total.labels(lighter, model, up)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def note_engine(self, info: Mapping[str, str], queue_frames: int, batches: Mapping[int, int]) -> None:
        """Takes what the engine process told.

        Args:
            info: `backend`, `precision`, `device` and `title` of what runs.
            queue_frames: that wait there now.
            batches: frames of a batch -> how many such batches there were since the last time.
        """
        self.queue_frames.labels("engine").set(queue_frames)
        engine = tuple(info[name] for name in ("backend", "precision", "device", "title"))
        if engine != self._engine:
            self.engine_info.clear()
            self._engine = engine
        self.engine_info.labels(*engine).set(1)
        for frames, count in batches.items():
            for _ in range(count):
                self.batch_frames.labels(info["backend"]).observe(frames)

    def note_request(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """An HTTP request was answered.

        Args:
            method: of it, as the client wrote it.
            route: the template of its path, such as `/v1/videos/{id}`; empty: none was found.
            status: of the answer; 101 for a WebSocket, 499 where the client did not wait for one.
            seconds: that it took; None: it goes on, as a WebSocket.
        """
        method, route = method if method in METHODS else "other", route or NO_ROUTE
        self.http_requests_total.labels(method, route, str(status)).inc()
        if seconds is not None:
            self.http_request_seconds.labels(method, route).observe(seconds)

    def note_jobs(self, counts: Mapping[str, int]) -> None:
        """Takes how many video jobs there are in each state."""
        for state, count in counts.items():
            self.jobs.labels(state).set(count)

    def note_disk(self, free: int, size: int, used: int) -> None:
        """Takes the bytes that are free on the disk of the data folder, those of the disk, and those of uploads and results."""
        self.disk_free_bytes.set(free)
        self.disk_size_bytes.set(size)
        self.storage_used_bytes.set(used)

    def note_cards(self, cards: Iterable[CardState]) -> None:
        """Takes what the cards say of themselves; what one does not tell is no series."""
        for card in cards:
            for gauge, value in (
                (self.gpu_utilization_ratio, card.utilization),
                (self.gpu_memory_bytes, card.memory_bytes),
                (self.gpu_memory_total_bytes, card.memory_total_bytes),
                (self.encoder_sessions, card.encoder_sessions),
            ):
                if value is None:
                    gauge.remove_by_labels({"device": card.device})
                else:
                    gauge.labels(card.device).set(value)

    def stream_label(self, stream: str) -> str:
        """What the label `stream` says of a stream: its name, or `other` where there are too many. `forget_stream` ends it."""
        full = len(self._streams) >= NAMED_STREAMS and stream not in self._streams
        if full or stream in self._others:
            self._others.add(stream)
            return OTHER
        self._streams.add(stream)
        return stream

    def forget_stream(self, stream: str) -> None:
        """Removes the gauges of a stream that ended; the shared ones with the last stream that had them."""
        if stream in self._streams:
            self._streams.remove(stream)
            self._remove_gauges(stream)
        elif stream in self._others:
            self._others.remove(stream)
            if not self._others:
                self._remove_gauges(OTHER)

    def _remove_gauges(self, label: str) -> None:
        self.stream_fps.remove_by_labels({"stream": label})
        self.stream_latency_seconds.remove_by_labels({"stream": label})
