"""The dashboard *Engine*: what computes, how much of its time is taken, and who waits for it."""

from common import FRAME_TIMES, GREEN, RED, YELLOW, Line, curve, figure, increase, page, quantile, quantiles, rate, ratio
from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.models.dashboard import Dashboard

BATCHES = rate("fourfold_batch_frames_count", "engine")
FRAMES = rate("fourfold_batch_frames_sum", "engine")


def dashboard() -> Dashboard:
    """The whole of it."""
    return page(
        "engine",
        "Engine",
        "The process that upscales for all streams: its batches, its queue, its time, its card.",
        ("At a glance", _glance()),
        ("Batches and the queue", _queue()),
        ("Time", _time()),
        ("Cards (NVIDIA; empty where there is none)", _cards()),
    )


def _glance() -> list[stat.Panel]:
    return [
        figure(
            "Ready",
            "1: the engine answered a real frame lately. 0: it is down or hangs; live streams go on with interpolation.",
            "none",
            Line("fourfold_engine_ready", "ready"),
            thresholds=[(None, RED), (1, GREEN)],
        ),
        figure(
            "What runs",
            "Model, backend, precision and device of the engine that serves pictures.",
            "none",
            Line("fourfold_engine_info", "{{model}}, {{backend}} {{precision}}, {{device}}"),
            width=8,
            shows="name",
        ),
        figure(
            "Restarts, last hour",
            "Times that the engine process died or hung, and was started again. More than five in a minute is a crash loop.",
            "none",
            Line("increase(fourfold_engine_restarts_total[1h])", "restarts"),
            thresholds=[(None, GREEN), (1, YELLOW), (5, RED)],
        ),
        figure(
            "Frames inferred",
            "Frames each second that the engine computes, for all who ask.",
            "fps",
            Line(f"sum({FRAMES})", "frames"),
        ),
        figure(
            "Frames waiting",
            "Frames in the engine's queue just now.",
            "none",
            Line('fourfold_queue_frames{queue="engine"}', "waiting"),
            thresholds=[(None, GREEN), (8, YELLOW), (32, RED)],
        ),
    ]


def _queue() -> list[timeseries.Panel]:
    return [
        curve(
            "Batch size",
            "Frames that are inferred together. On a CPU one at a time is best; on a card it grows with the load.",
            "none",
            Line(ratio(FRAMES, BATCHES), "{{engine}} mean"),
            Line(quantile(0.95, "fourfold_batch_frames", "engine"), "{{engine}} p95"),
            width=8,
        ),
        curve(
            "Queue",
            "Frames that wait for the engine, and pictures that wait for a worker. A queue that only grows: too much work.",
            "none",
            Line("fourfold_queue_frames", "{{queue}}"),
            width=8,
        ),
        curve(
            "Frames inferred, by backend",
            "Frames each second that the engine computes.",
            "fps",
            Line(FRAMES, "{{engine}}"),
            width=8,
        ),
    ]


def _time() -> list[timeseries.Panel]:
    infer, queue = 'stage="infer"', 'stage="queue"'
    return [
        curve(
            "Inference time",
            "Seconds that a frame is computed for.",
            "s",
            *quantiles("fourfold_stage_seconds", infer),
            thresholds=FRAME_TIMES,
            width=8,
        ),
        curve(
            "Waiting time",
            "Seconds that a frame waits for its turn. When this grows and inference does not, there are too many streams.",
            "s",
            *quantiles("fourfold_stage_seconds", queue),
            thresholds=FRAME_TIMES,
            width=8,
        ),
        curve(
            "Utilisation",
            "Seconds of inference in each second, of streams and pictures. Full at 1, where batches follow each other.",
            "none",
            Line(rate("fourfold_stage_seconds_sum", where=infer), "inference"),
            thresholds=[(None, GREEN), (0.8, YELLOW), (1, RED)],
            width=8,
        ),
        curve(
            "Restarts",
            "Times that the engine process was started again.",
            "none",
            Line(increase("fourfold_engine_restarts_total"), "restarts"),
            width=12,
        ),
        curve(
            "Memory of the api process",
            "Resident bytes of the process that speaks HTTP; the engine and the workers have their own.",
            "bytes",
            Line('process_resident_memory_bytes{job="fourfold"}', "api"),
            width=12,
        ),
    ]


def _cards() -> list[timeseries.Panel]:
    return [
        curve(
            "Card: utilisation",
            "Share of time in which the card computes.",
            "percentunit",
            Line("fourfold_gpu_utilization_ratio", "{{device}}"),
            thresholds=[(None, GREEN), (0.9, YELLOW)],
            most=1,
            width=8,
        ),
        curve(
            "Card: memory",
            "Bytes that are taken, and that there are.",
            "bytes",
            Line("fourfold_gpu_memory_bytes", "{{device}} taken"),
            Line("fourfold_gpu_memory_total_bytes", "{{device}} in all"),
            width=8,
        ),
        curve(
            "Card: encoder sessions",
            "Streams that NVENC writes. Cards for gamers allow only some at once.",
            "none",
            Line("fourfold_encoder_sessions", "{{device}}"),
            width=8,
        ),
    ]
