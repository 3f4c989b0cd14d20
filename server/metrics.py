"""Every metric of the service, declared in one place. Only the api process has them; others send it what they measured."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.006, 0.0083, 0.0125, 0.0167, 0.025, 0.0333, 0.05, 0.0667, 0.1),
    *(0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Bucket edges: fine up to 100 ms; 8.3, 16.7 and 33.3 ms are the frame times of 120, 60 and 30 frames/s."""

FRAMES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

NAMED_STREAMS = 100
"""Streams that have gauges of their own at one time; what is beyond shares the label `other`."""


class Metrics:
    """The metrics and their registry. Labels take few values; `stream_label` bounds those that streams bring."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._streams: set[str] = set()

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
        self.batch_frames = histogram("batch_frames", "Frames inferred together.", "engine", buckets=FRAMES)
        self.queue_frames = gauge("queue_frames", "Frames that wait.", "queue")
        self.model_switches_total = counter("model_switches_total", "Changes of a stream's model.", "from", "to", "reason")
        self.engine_info = gauge("engine_info", "What the engine runs.", "backend", "precision", "device", "model")
        self.engine_restarts_total = counter("engine_restarts_total", "Times the engine process was started again.")
        self.rejected_total = counter("rejected_total", "Requests answered with an error, by its code.", "reason")
        self.stream_faults_total = counter("stream_faults_total", "Streams and jobs that failed, by code.", "reason")
        self.reconnects_total = counter("reconnects_total", "Times a stream's source or target was connected again.", "reason")

    def note_engine(self, info: Mapping[str, str], queue_frames: int, batches: Mapping[int, int]) -> None:
        """Takes what the engine process told.

        Args:
            info: `backend`, `precision`, `device` and `title` of what runs.
            queue_frames: that wait there now.
            batches: frames of a batch -> how many such batches there were since the last time.
        """
        self.queue_frames.labels("engine").set(queue_frames)
        self.engine_info.clear()
        self.engine_info.labels(info["backend"], info["precision"], info["device"], info["title"]).set(1)
        for frames, count in batches.items():
            for _ in range(count):
                self.batch_frames.labels(info["backend"]).observe(frames)

    def stream_label(self, stream: str) -> str:
        """What the label `stream` says of a stream: its name, or `other` where there are too many. `forget_stream` ends it."""
        if stream not in self._streams and len(self._streams) >= NAMED_STREAMS:
            return "other"
        self._streams.add(stream)
        return stream

    def forget_stream(self, stream: str) -> None:
        """Removes the gauges of a stream that ended."""
        if stream in self._streams:
            self._streams.discard(stream)
            self.stream_fps.remove_by_labels({"stream": stream})
            self.stream_latency_seconds.remove_by_labels({"stream": stream})
