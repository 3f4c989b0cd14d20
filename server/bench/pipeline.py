"""`fourfold bench pipeline`: files from end to end, one and many at once, beside what their stages cost alone."""

import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from engines.backends import CPU_BACKENDS
from engines.build import build
from engines.choose import Choice, choose
from engines.runner import EngineSpec
from models.resize import downscale
from server.bench.machine import describe
from server.bench.measure import digits, in_turn, spread
from server.bench.stages import WARM_UP, Setup, Stages, measure_stages
from server.bench.streams import COOL_DOWN, Run, run_streams
from server.catalogue import cores, find_graphs
from server.demo import HEIGHT, RATE, SUPERSAMPLING, WIDTH, draw
from server.media.decode import VideoSource
from server.media.encode import ENCODERS
from server.media.frames import write_clip
from server.videos import VideoOptions

R = TypeVar("R")


@dataclass(frozen=True)
class PipelineBench:
    """What to measure, and how long.

    Attributes:
        streams: numbers of clips at once.
        frames: of the clip that is drawn.
        rounds: how often everything is measured.
        clip: a video file to take instead of a drawn one.
        options: as of `fourfold video`.
    """

    streams: Sequence[int] = (1, 2, 4, 8, 16)
    frames: int = 96
    rounds: int = 3
    clip: Path | None = None
    options: VideoOptions = field(default_factory=VideoOptions)


def bench_pipeline(bench: PipelineBench, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures the stages and every number of streams; the result is what `--json` prints.

    The engine is chosen and compiled before; the first and last frames of a run are not counted (see `server.bench.streams`).

    Raises:
        FourfoldError: the clip cannot be read, or what was named does not work here.
    """
    about = describe()
    with tempfile.TemporaryDirectory(prefix="fourfold-bench-") as name:
        folder = Path(name)
        setup, engine = _set_up(bench, folder, say)
        stages: Callable[[], Stages] = partial(_alone, measure_stages, setup, folder)
        runs: dict[str, Callable[[], Run]] = {
            str(n): partial(_alone, run_streams, setup, n, folder) for n in dict.fromkeys(bench.streams)
        }
        measures: dict[str, Callable[[], Stages | Run]] = {"stages": stages, **runs}
        rounds = in_turn(measures, bench.rounds, say)
    settings = {"rounds": bench.rounds, "frames": engine.pop("frames"), "not_counted": {"first": WARM_UP, "last": COOL_DOWN}}
    return {"kind": "pipeline", **about, "settings": settings, **engine, **_summary(rounds, setup.choice)}


def _set_up(bench: PipelineBench, folder: Path, say: Callable[[str], None]) -> tuple[Setup, dict[str, Any]]:
    """Clip and compiled engine; and what a reader must know of both."""
    clip, options = bench.clip or _drawn(folder / "clip.mp4", bench.frames, say), bench.options
    model, graphs = find_graphs(options.model, options.scale, "yuv420")
    with VideoSource(clip) as source:
        spec = EngineSpec(graphs, source.width, source.height, source.colour)
        frames, codec = source.frames, source.codec
    choice = choose(spec, "throughput", cores(), options.engine, options.precision, say)
    build(choice.backend, choice.spec)
    height, width = choice.spec.output_planes(spec.height or 0, spec.width or 0)[0]
    encoder = ENCODERS["libx264" if options.encoder.encoder == "auto" else options.encoder.encoder]
    quality = encoder.crf if options.encoder.crf is None else options.encoder.crf
    return Setup(clip, choice, options.encoder), {
        "frames": frames,
        "engine": {"model": f"{model}-x{graphs.scale}", "layout": asdict(choice.spec.layout), "reason": choice.reason},
        "input": f"{spec.width}x{spec.height} {codec}",
        "output": f"{width}x{height} {encoder.name} {options.encoder.preset or encoder.preset}, quality {quality}",
    }


def _drawn(path: Path, frames: int, say: Callable[[str], None]) -> Path:
    say(f"drawing {frames} frames of {WIDTH}x{HEIGHT}")
    write_clip(path, (downscale(draw(i / RATE), SUPERSAMPLING) for i in range(frames)), RATE)
    return path


def _alone(function: Callable[..., R], *arguments: object) -> R:
    """Calls it in a fresh process: its memory and its processor time are its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(function, *arguments).result()


def _summary(rounds: dict[str, list[Any]], choice: Choice) -> dict[str, Any]:
    stages: list[Stages] = rounds.pop("stages")
    limits = [_limit_fps(round_, choice) for round_ in stages]
    return {
        "stages": {name: spread([getattr(s, name) for s in stages]) for name in (*asdict(stages[0]), "core_ms")},
        "limit_fps": spread(limits),
        "runs": [{"streams": int(n), **_figures(runs, stages, limits, int(n))} for n, runs in rounds.items()],
    }


def _limit_fps(stages: Stages, choice: Choice) -> float:
    """What the cores could do if nothing else cost anything, and the GPU where there is one."""
    limit = cores() * 1000 / stages.core_ms
    return limit if choice.backend in CPU_BACKENDS else min(limit, 1000 / stages.infer_ms)


def _figures(runs: list[Run], stages: list[Stages], limits: list[float], streams: int) -> dict[str, Any]:
    """The spread of each figure over the rounds; efficiency and what is left of the cores' time are each round's own."""
    return {
        **{name: spread([getattr(run, name) for run in runs]) for name in asdict(runs[0]) if name != "peak_rss_bytes"},
        "fps_per_stream": spread([run.fps / streams for run in runs]),
        "efficiency": spread([run.fps / limit for run, limit in zip(runs, limits, strict=True)]),
        "left_core_ms": _left(runs, stages),
        "peak_rss_bytes": max(run.peak_rss_bytes for run in runs),
    }


def _left(runs: list[Run], stages: list[Stages]) -> dict[str, float]:
    """Core milliseconds a frame that no stage needs, medians: computed beside the stages or more slowly, and not computed."""
    beside = [run.core_ms - stage.core_ms for run, stage in zip(runs, stages, strict=True)]
    idle = [cores() * 1000 / run.fps - run.core_ms for run in runs]
    return {"overhead": digits(statistics.median(beside)), "idle": digits(statistics.median(idle))}
