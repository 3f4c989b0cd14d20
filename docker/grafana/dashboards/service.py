"""The dashboard *Service*: who asks for what, what is refused, and what the service has left."""

from common import GREEN, RED, WINDOW, YELLOW, Line, curve, figure, page, quantile, rate, ratio
from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.models.dashboard import Dashboard

REQUESTS = rate("fourfold_http_requests_total")
FAULTS = rate("fourfold_http_requests_total", where='status=~"5.."')
CAPACITY = 'reason=~"busy|quota|restart|engine_unavailable|gpu_oom"'


def dashboard() -> Dashboard:
    """The whole of it."""
    return page(
        "service",
        "Service",
        "Requests and errors, jobs, restarts, and what is left of the disk and of the places for streams.",
        ("At a glance", _glance()),
        ("Requests", _requests()),
        ("Errors", _errors()),
        ("Jobs, room and restarts", _room()),
    )


def _glance() -> list[stat.Panel]:
    return [
        figure(
            "Up",
            "1: Prometheus reaches the service.",
            "none",
            Line('up{job="fourfold"}', "{{instance}}"),
            thresholds=[(None, RED), (1, GREEN)],
        ),
        figure("Version", "What runs.", "none", Line("fourfold_build_info", "{{version}}"), shows="name"),
        figure(
            "Faults",
            "Share of requests that the service failed (5xx), not those that were wrong.",
            "percentunit",
            Line(ratio(f"{FAULTS} or vector(0)", REQUESTS), "5xx"),
            thresholds=[(None, GREEN), (0.01, YELLOW), (0.05, RED)],
        ),
        figure(
            "Restarts, last hour",
            "Times that the whole service was started again.",
            "none",
            Line('changes(process_start_time_seconds{job="fourfold"}[1h])', "restarts"),
            thresholds=[(None, GREEN), (1, YELLOW), (3, RED)],
        ),
        figure(
            "Disk that is free",
            "Of the disk of the data folder.",
            "percentunit",
            Line("fourfold_disk_free_bytes / fourfold_disk_size_bytes", "free"),
            thresholds=[(None, RED), (0.05, YELLOW), (0.15, GREEN)],
        ),
        figure(
            "Places taken",
            "Share of the streams that may be open at once, of the kind that has the fewest left.",
            "percentunit",
            Line("max(fourfold_streams_active / on (kind) (fourfold_streams_limit > 0))", "taken"),
            thresholds=[(None, GREEN), (0.8, YELLOW), (0.95, RED)],
        ),
    ]


def _requests() -> list[timeseries.Panel]:
    return [
        curve(
            "Requests by route",
            "Each second. (none): refused before a route was found, for its key or its address.",
            "reqps",
            Line(rate("fourfold_http_requests_total", "method, route"), "{{method}} {{route}}"),
            stacked=True,
            width=8,
        ),
        curve(
            "Requests by status",
            "Each second. 101: a WebSocket was opened. 499: the client did not wait for the answer.",
            "reqps",
            Line(rate("fourfold_http_requests_total", "status"), "{{status}}"),
            stacked=True,
            width=8,
        ),
        curve(
            "Time of requests, p95",
            "From the headers to the last byte of the answer, so with the time that the client takes to send and to read.",
            "s",
            Line(quantile(0.95, "fourfold_http_request_seconds", "route"), "{{route}}"),
            width=8,
        ),
    ]


def _errors() -> list[timeseries.Panel]:
    return [
        curve(
            "Errors by code",
            "Answers that are errors, each second, the ten most frequent; docs/reference.md explains each code.",
            "reqps",
            Line(f"topk(10, {rate('fourfold_rejected_total', 'reason')})", "{{reason}}"),
            width=8,
        ),
        curve(
            "Refused for want of room",
            "Answers 429 and 503 each second: the service, or the caller's share of it, was full.",
            "reqps",
            Line(rate("fourfold_rejected_total", "reason", CAPACITY), "{{reason}}"),
            stacked=True,
            width=8,
        ),
        curve(
            "Streams and jobs that failed",
            "Each second, by code, the ten most frequent.",
            "none",
            Line(f"topk(10, {rate('fourfold_stream_faults_total', 'reason')})", "{{reason}}"),
            width=8,
        ),
    ]


def _room() -> list[timeseries.Panel]:
    return [
        curve("Jobs", "Videos by state, until they expire.", "none", Line("fourfold_jobs", "{{state}}"), width=8),
        curve(
            "Frames of videos",
            "Frames each second that all video jobs write.",
            "fps",
            Line(rate("fourfold_frames_total", where='kind="video", outcome="delivered"'), "frames"),
            width=8,
        ),
        curve(
            "Room for uploads and results",
            "The quota `storage_bytes`, what is taken of it, and what the disk has left.",
            "bytes",
            Line("fourfold_storage_used_bytes", "taken"),
            Line("fourfold_storage_limit_bytes", "quota"),
            Line("fourfold_disk_free_bytes", "free on the disk"),
            width=8,
        ),
        curve(
            "Streams and their places",
            "Open streams, and how many may be.",
            "none",
            Line("fourfold_streams_active", "{{kind}}"),
            Line("fourfold_streams_limit", "{{kind}}, at most"),
            width=8,
        ),
        curve(
            "Restarts",
            "When the whole service, or its engine, was started again.",
            "none",
            Line('changes(process_start_time_seconds{job="fourfold"}[5m])', "service"),
            Line("increase(fourfold_engine_restarts_total[5m])", "engine"),
            width=8,
        ),
        curve(
            "Processor time of the api process",
            "Cores that the process that speaks HTTP takes. Near 1 it is the bottleneck.",
            "none",
            Line(f'rate(process_cpu_seconds_total{{job="fourfold"}}[{WINDOW}])', "cores"),
            thresholds=[(None, GREEN), (0.7, YELLOW), (0.9, RED)],
            width=8,
        ),
    ]
