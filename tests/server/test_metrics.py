"""The metrics have the names and labels that the dashboards rely on, and few time series, however many streams there are."""

import re
from pathlib import Path

from prometheus_client import generate_latest

from server.metrics import NAMED_STREAMS, SECONDS, Metrics

NAMES = {
    "stage_seconds": ("stage",),
    "frame_latency_seconds": ("kind",),
    "frames_total": ("kind", "outcome"),
    "frames_dropped_total": ("kind", "reason"),
    "deadline_misses_total": ("kind",),
    "stream_fps": ("stream", "direction"),
    "stream_latency_seconds": ("stream", "statistic"),
    "streams_active": ("kind",),
    "batch_frames": ("engine",),
    "queue_frames": ("queue",),
    "model_switches_total": ("from", "to", "reason"),
    "engine_info": ("backend", "precision", "device", "model"),
    "engine_restarts_total": (),
    "rejected_total": ("reason",),
    "stream_faults_total": ("reason",),
    "reconnects_total": ("reason",),
}


def text(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_names_and_labels() -> None:
    metrics = Metrics()
    for name, labels in NAMES.items():
        metric = getattr(metrics, name)
        assert metric._labelnames == labels
        assert f"# TYPE fourfold_{name} " in text(metrics)
    assert len(re.findall(r"# TYPE fourfold_(?!.*_created)", text(metrics))) == len(NAMES)


def test_frame_times_are_edges_of_buckets() -> None:
    assert {0.0083, 0.0167, 0.0333} <= set(SECONDS)
    assert sum(0.001 <= edge <= 0.1 for edge in SECONDS) >= 12
    metrics = Metrics()
    metrics.frame_latency_seconds.labels("websocket").observe(0.0167)
    assert 'fourfold_frame_latency_seconds_bucket{kind="websocket",le="0.0167"} 1.0' in text(metrics)


def test_ten_thousand_streams_are_a_hundred_labels() -> None:
    metrics = Metrics()
    for number in range(10_000):
        metrics.stream_fps.labels(metrics.stream_label(f"stream-{number}"), "in").set(30)
    series = text(metrics).count("fourfold_stream_fps{")
    assert series == NAMED_STREAMS + 1
    assert 'stream="other"' in text(metrics)


def test_a_stream_that_ended_makes_room() -> None:
    metrics = Metrics()
    for number in range(3 * NAMED_STREAMS):
        name = f"stream-{number}"
        label = metrics.stream_label(name)
        assert label == name == metrics.stream_label(name)
        metrics.stream_fps.labels(label, "in").set(30)
        metrics.stream_latency_seconds.labels(label, "p50").set(0.01)
        metrics.forget_stream(name)
        metrics.forget_stream(name)
    assert "stream-" not in text(metrics)


def test_the_engine_is_told_as_it_is_now() -> None:
    metrics = Metrics()
    openvino = {"backend": "openvino", "precision": "int8", "device": "CPU", "title": "xlsr-x4"}
    metrics.note_engine(openvino, 3, {1: 2, 4: 1})
    metrics.note_engine(openvino | {"precision": "bf16"}, 0, {1: 1})
    told = text(metrics)
    assert told.count("fourfold_engine_info{") == 1
    assert 'fourfold_engine_info{backend="openvino",device="CPU",model="xlsr-x4",precision="bf16"} 1.0' in told
    assert 'fourfold_queue_frames{queue="engine"} 0.0' in told
    assert 'fourfold_batch_frames_count{engine="openvino"} 4.0' in told
    assert 'fourfold_batch_frames_sum{engine="openvino"} 7.0' in told


def test_only_the_api_process_has_metrics() -> None:
    server = Path(__file__).parents[2] / "server"
    users = {path.relative_to(server).as_posix() for path in server.rglob("*.py") if "prometheus_client" in path.read_text()}
    assert users == {"metrics.py", "api/health.py"}
