"""The metrics have the names and labels that the dashboards rely on, and few time series, however many streams there are."""

import re
from pathlib import Path

from prometheus_client import generate_latest

from server.api._stream_meter import SessionMeter
from server.cards import CardState
from server.metrics import NAMED_STREAMS, OTHER, SECONDS, STEPS_DOWN, STEPS_UP, Metrics
from server.streams import _ladder
from server.streams._ladder import ENGINE_BACK, ENGINE_GONE, OVERLOAD, RECOVERED

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
    "streams_limit": ("kind",),
    "streams_by_model": ("kind", "model"),
    "engine_ready": (),
    "http_requests_total": ("method", "route", "status"),
    "http_request_seconds": ("method", "route"),
    "jobs": ("state",),
    "disk_free_bytes": (),
    "disk_size_bytes": (),
    "storage_used_bytes": (),
    "storage_limit_bytes": (),
    "gpu_utilization_ratio": ("device",),
    "gpu_memory_bytes": ("device",),
    "gpu_memory_total_bytes": ("device",),
    "encoder_sessions": ("device",),
    "build_info": ("version", "python"),
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


def test_the_shared_gauges_go_with_the_last_stream_that_has_them() -> None:
    metrics = Metrics()
    names = [f"stream-{number}" for number in range(NAMED_STREAMS + 2)]
    for name in names:
        label = metrics.stream_label(name)
        metrics.stream_fps.labels(label, "in").set(30)
        metrics.stream_latency_seconds.labels(label, "p50").set(0.01)
    for name in names[:-1]:
        metrics.forget_stream(name)
        metrics.forget_stream(name)
        assert 'stream="other"' in text(metrics)
    assert metrics.stream_label(names[-1]) == OTHER  # to its end
    metrics.forget_stream(names[-1])
    assert 'stream="' not in text(metrics)


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
    assert users == {"metrics.py", "api/health.py", "reference.py"}  # the last one writes the documentation


def test_ten_thousand_sessions_leave_few_series() -> None:
    metrics = Metrics()
    meters = [SessionMeter(metrics, f"somebody's stream {number}", "xlsr", 0.25) for number in range(10_000)]
    for meter in meters:
        meter.arrived(0)
        meter.delivered(0, (0.001, 0.001, 0.001, 0.001), 0.001)
        meter.stats()
    assert len(text(metrics).splitlines()) < 1500  # each named one has two gauges of frames/s and three of latency
    assert 'fourfold_streams_by_model{kind="websocket",model="xlsr"} 10000.0' in text(metrics)
    for meter in meters:
        meter.close("disconnected")
    assert "somebody" not in text(metrics)
    assert 'fourfold_streams_by_model{kind="websocket",model="xlsr"} 0.0' in text(metrics)


def test_the_documentation_lists_all_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    assert set(re.findall(r"`fourfold_(\w+)`", page)) == NAMES.keys()


def test_words_that_clients_make_up_are_one_series() -> None:
    metrics = Metrics()
    for number in range(10_000):
        metrics.note_request(f"METHOD{number}", "", 405, 0.001)
    told = text(metrics)
    assert told.count("fourfold_http_requests_total{") == 1
    assert 'fourfold_http_requests_total{method="other",route="(none)",status="405"} 10000.0' in told


def test_changes_of_model_are_those_of_the_ladder() -> None:
    assert {*STEPS_DOWN, *STEPS_UP} == {OVERLOAD, ENGINE_GONE, RECOVERED, ENGINE_BACK}
    told = text(Metrics())
    for heavy, lighter in _ladder.LIGHTER.items():
        assert f'fourfold_model_switches_total{{from="{heavy}",reason="overload",to="{lighter}"}} 0.0' in told
        assert f'fourfold_model_switches_total{{from="bicubic",reason="engine_back",to="{heavy}"}} 0.0' in told


def test_what_has_not_happened_yet_is_zero() -> None:
    told = text(Metrics())
    for name in (
        'frames_dropped_total{kind="websocket",reason="late"}',
        'frames_dropped_total{kind="relay",reason="target"}',
        'frames_total{kind="video",outcome="delivered"}',
        'deadline_misses_total{kind="relay"}',
        'reconnects_total{reason="target_down"}',
        'rejected_total{reason="busy"}',
        'stream_faults_total{reason="crashed"}',
    ):
        assert f"fourfold_{name} 0.0" in told


def test_cards_are_shown_as_far_as_they_tell() -> None:
    metrics = Metrics()
    metrics.note_cards([CardState("0 H200", 0.5, 3 << 30, 141 << 30, None)])
    told = text(metrics)
    assert 'fourfold_gpu_utilization_ratio{device="0 H200"} 0.5' in told
    assert 'fourfold_gpu_memory_bytes{device="0 H200"} 3.221225472e+09' in told
    assert "fourfold_encoder_sessions{" not in told
    metrics.note_cards([CardState("0 H200", None, None, None, None)])  # it was lost
    assert 'device="0 H200"' not in text(metrics)
