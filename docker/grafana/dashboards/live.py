"""The dashboard *Live*: do viewers get every frame, in time; and if not, in which stage it is lost."""

from common import (
    FRAME_TIMES,
    GREEN,
    LIVE,
    PLAIN,
    RED,
    YELLOW,
    Line,
    curve,
    figure,
    increase,
    page,
    quantile,
    quantiles,
    rate,
    ratio,
)
from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.models.dashboard import Dashboard

DELIVERED = rate("fourfold_frames_total", "kind", f'{LIVE}, outcome="delivered"')
FRAMES = rate("fourfold_frames_total", where=LIVE)
LATE = rate("fourfold_deadline_misses_total")
LOST = rate("fourfold_frames_dropped_total", where='reason!~"disconnected|burst"')  # those that nobody waited for are no loss
RATE = [(None, RED), (0.9, YELLOW), (0.98, GREEN)]


def dashboard() -> Dashboard:
    """The whole of it."""
    return page(
        "live",
        "Live",
        "Whether viewers get every frame in time. Green above all: they do.",
        ("At a glance", _glance()),
        ("Frames", _frames()),
        ("Latency", _latency()),
        ("What was lost, and why", _losses()),
    )


def _glance() -> list[stat.Panel]:
    return [
        figure(
            "Frames in time",
            "Share of live frames that were delivered before their deadline. Below 98% viewers see stutter.",
            "percentunit",
            Line(f"1 - clamp_max({ratio(f'{LATE} + {LOST}', FRAMES)}, 1)", "in time"),
            thresholds=RATE,
        ),
        figure(
            "Slowest stream, of its source",
            "Frames out for each frame in, of the stream that has the fewest. 100%: every viewer gets the full rate.",
            "percentunit",
            Line(
                'min(fourfold_stream_fps{direction="out"} / ignoring (direction) (fourfold_stream_fps{direction="in"} > 0))',
                "slowest",
            ),
            thresholds=RATE,
        ),
        figure(
            "Slowest stream",
            "Frames each second that the slowest stream delivers. 60 is the aim, where the source has 60.",
            "fps",
            Line('min(fourfold_stream_fps{direction="out"})', "slowest"),
            thresholds=[(None, RED), (24, YELLOW), (57, GREEN)],
        ),
        figure(
            "Latency, p99",
            "99 of 100 live frames leave within this time of their arrival.",
            "s",
            Line(quantile(0.99, "fourfold_frame_latency_seconds", where=LIVE), "p99"),
            thresholds=[(None, GREEN), (0.1, YELLOW), (0.25, RED)],
        ),
        figure("Open streams", "Streams by kind.", "none", Line("fourfold_streams_active", "{{kind}}")),
        figure(
            "Streams on bicubic",
            "Share of streams that bicubic interpolation upscales, for want of an engine that keeps up.",
            "percentunit",
            Line(
                '(sum(fourfold_streams_by_model{model="bicubic"}) or vector(0)) / clamp_min(sum(fourfold_streams_by_model), 1)',
                "bicubic",
            ),
            thresholds=[(None, GREEN), (0.01, YELLOW), (0.5, RED)],
        ),
    ]


def _frames() -> list[timeseries.Panel]:
    return [
        curve(
            "Frames in and out",
            "Of each stream. The two lines of a stream lie on each other when it gets its full rate. Streams beyond the "
            "hundredth share the name `other`.",
            "fps",
            Line('fourfold_stream_fps{direction="in"}', "{{stream}} in"),
            Line('fourfold_stream_fps{direction="out"}', "{{stream}} out"),
        ),
        curve(
            "Frames by what became of them",
            "All kinds of work together. Dropped and failed ones should be a thin line, or none.",
            "fps",
            Line(rate("fourfold_frames_total", "kind, outcome"), "{{kind}} {{outcome}}"),
            stacked=True,
        ),
    ]


def _latency() -> list[timeseries.Panel]:
    stages = [
        curve(
            f"Latency by stage, {name}",
            f"Seconds of a frame in each stage, {name} of each, stacked. Dashed: one frame of 60 and of 30 frames/s. "
            "Stages overlap for different frames; the sum is more than the same quantile of the whole.",
            "s",
            Line(quantile(share, "fourfold_stage_seconds", "stage"), "{{stage}}"),
            stacked=True,
            thresholds=FRAME_TIMES,
            width=8,
        )
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    ]
    return [
        *stages,
        curve(
            "Latency of live frames",
            "From a frame's bytes in to its bytes out, all live streams together.",
            "s",
            *quantiles("fourfold_frame_latency_seconds", LIVE),
            thresholds=FRAME_TIMES,
            width=8,
        ),
        curve(
            "Latency by kind, p95",
            "From bytes in to bytes out, by kind of work; a picture's includes its decoding and encoding as PNG, JPEG or WebP.",
            "s",
            Line(quantile(0.95, "fourfold_frame_latency_seconds", "kind"), "{{kind}}"),
            width=8,
        ),
        curve(
            "Latency by stream, p95",
            "Of each stream's latest frames.",
            "s",
            Line('fourfold_stream_latency_seconds{statistic="p95"}', "{{stream}}"),
            thresholds=FRAME_TIMES,
            width=8,
        ),
    ]


def _losses() -> list[timeseries.Panel]:
    return [
        curve(
            "Deadline misses",
            "Share of delivered frames that came later than `live_budget_ms` allows.",
            "percentunit",
            Line(ratio(rate("fourfold_deadline_misses_total", "kind"), DELIVERED), "{{kind}}"),
            thresholds=[(None, GREEN), (0.01, YELLOW), (0.05, RED)],
            width=8,
        ),
        curve(
            "Drops by reason",
            "Frames each second that were not delivered. late and queue_full: the engine or the encoder does not keep up. "
            "target: whoever takes the stream does not. disconnected: they were under way when a client left.",
            "fps",
            Line(rate("fourfold_frames_dropped_total", "kind, reason"), "{{kind}} {{reason}}"),
            stacked=True,
            width=8,
        ),
        curve(
            "Streams by model",
            "Which model upscales how many streams now. One that the engine is too slow for steps down, at last to bicubic.",
            "none",
            Line("sum by (model) (fourfold_streams_by_model)", "{{model}}"),
            stacked=True,
            thresholds=PLAIN,
            width=8,
        ),
        curve(
            "Changes of model",
            "overload: too slow, a rung down. recovered: up again. engine_unavailable: no engine. engine_back: there it is.",
            "none",
            Line(increase("fourfold_model_switches_total", "reason"), "{{reason}}"),
            width=12,
        ),
        curve(
            "Reconnects",
            "Times that a relay's source or target was connected again, by why.",
            "none",
            Line(increase("fourfold_reconnects_total", "reason"), "{{reason}}"),
            width=12,
        ),
    ]
