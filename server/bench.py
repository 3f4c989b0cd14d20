"""`fourfold bench`: what a frame costs, stage by stage and end to end, beside a stock ONNX Runtime session.

Each stage is timed alone, in processor seconds, so that the sum says how many frames these cores could do at best. Everything
is measured in turn, round by round, so that a noisy neighbour disturbs all of it alike.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends import find_backend
from engines.build import choose, open_runner
from engines.engine import LocalEngine
from engines.runner import BackendUnavailableError, EngineSpec, Planes
from models.colour import Colour
from models.registry import find_model
from models.resize import downscale
from server.catalogue import cores
from server.demo import HEIGHT, RATE, SUPERSAMPLING, WIDTH, draw
from server.media.decode import DecodedFrame, VideoSource
from server.media.encode import VideoSink
from server.media.frames import write_clip
from server.videos import FRAMES_ON_THE_WAY, VideoOptions, upscale_video

MODEL = find_model("xlsr", 4)


def run_bench(frames: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures everything `rounds` times over a drawn clip of `frames` frames, after one round of warm-up that is discarded."""
    choice = choose()
    spec = EngineSpec(MODEL.onnx("yuv420"), 4, "yuv420", WIDTH, HEIGHT, Colour("bt601", "limited"), choice.precision)
    int8 = replace(spec, onnx=MODEL.onnx("yuv420", "int8"), precision="int8")
    measured: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="fourfold-bench-") as name:
        clip = Path(name) / "clip.mp4"
        write_clip(clip, (downscale(draw(i / RATE), SUPERSAMPLING) for i in range(frames)), RATE)
        measurements: dict[str, Callable[[], float]] = {
            "decode_core_ms": lambda: _decode(clip),
            "infer_core_ms": lambda: _infer_throughput(choice.backend, for_throughput(spec, cores()), frames),
            "infer_int8_core_ms": lambda: _infer_throughput(choice.backend, for_throughput(int8, cores()), frames),
            "encode_core_ms": lambda: _encode(clip, Path(name) / "encoded.mp4"),
            "engine_call_ms": lambda: _call(_folded_call(choice.backend, for_latency(spec, cores())), frames // 4),
            "end_to_end_fps": lambda: upscale_video(clip, Path(name) / "out.mp4", VideoOptions(), lambda _: None)["fps"],
        }
        try:
            find_backend("onnxruntime").version()
            measurements["stock_call_ms"] = lambda: _call(_stock_call(), frames // 8)
        except BackendUnavailableError as error:
            say(f"no comparison with ONNX Runtime: {error}")
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "warm-up")
            for key, measure in measurements.items():
                value = measure()
                if number:
                    measured.setdefault(key, []).append(value)
    return _summary(measured, choice.reason, frames, rounds)


def _summary(measured: dict[str, list[float]], engine: str, frames: int, rounds: int) -> dict[str, Any]:
    figures = {
        key: {"median": round(statistics.median(v), 2), "min": round(min(v), 2), "max": round(max(v), 2)}
        for key, v in measured.items()
    }
    core_ms = sum(figures[f"{stage}_core_ms"]["median"] for stage in ("decode", "infer", "encode"))
    limit = cores() * 1000 / core_ms
    ratios = [stock / ours for stock, ours in zip(measured.get("stock_call_ms", []), measured["engine_call_ms"], strict=False)]
    return {
        "machine": {"cpu": find_backend("openvino").device(), "cores": cores()},
        "engine": engine,
        "input": f"{WIDTH}x{HEIGHT}",
        "frames": frames,
        "rounds": rounds,
        "figures": figures,
        "limit_fps": round(limit, 2),
        "efficiency": round(figures["end_to_end_fps"]["median"] / limit, 3),
        "times_stock": round(statistics.median(ratios), 2) if ratios else None,
    }


def render(result: dict[str, Any]) -> str:
    """The figures as a text table."""
    lines = [f"{result['machine']['cpu']}, {result['machine']['cores']} cores", result["engine"], ""]
    lines.append(f"{'':16} {'median':>9} {'min':>9} {'max':>9}   ({result['rounds']} rounds of {result['frames']} frames)")
    for name, figure in result["figures"].items():
        lines.append(f"{name:16} {figure['median']:9.2f} {figure['min']:9.2f} {figure['max']:9.2f}")
    lines.append("")
    lines.append(
        f"limit (cores / core time of the stages): {result['limit_fps']} frames/s; reached: {result['efficiency']:.0%}"
    )
    if result["times_stock"]:
        lines.append(f"the engine's call is {result['times_stock']} x as fast as a stock session's on the unfolded RGB export")
    return "\n".join(lines)


def _core_ms(work: Callable[[], int]) -> float:
    """Processor milliseconds that each of the frames took that `work` says it did."""
    started = time.process_time()
    frames = work()
    return (time.process_time() - started) * 1000 / frames


def _decode(clip: Path) -> float:
    with VideoSource(clip) as source:
        return _core_ms(lambda: sum(isinstance(item, DecodedFrame) for item in source.read()))


def _infer_throughput(backend: str, spec: EngineSpec, frames: int) -> float:
    with LocalEngine(backend, spec, spec.lanes + FRAMES_ON_THE_WAY) as engine:
        for slot in engine.pool.slots:
            _fill(slot.inputs)

        def work() -> int:
            waiting: list[tuple[Any, Future[float]]] = []
            for _ in range(frames):
                if len(waiting) == engine.pool.count:
                    slot, future = waiting.pop(0)
                    future.result()
                    engine.pool.release(slot)
                slot = engine.pool.acquire()
                waiting.append((slot, engine.submit(slot)))
            for _, future in waiting:
                future.result()
            return frames

        return _core_ms(work)


def _encode(clip: Path, target: Path) -> float:
    """Encodes drawn frames of output size; drawing them is not counted."""
    pictures = [_i420(draw(i / RATE)) for i in range(24)]

    def work() -> int:
        with VideoSource(clip) as source, VideoSink(target, source, WIDTH * 4, HEIGHT * 4) as sink:
            step = round(1 / (RATE * source.time_base))
            for i, picture in enumerate(pictures):
                sink.encode(picture, i * step, step)
        return len(pictures)

    return _core_ms(work)


def _i420(rgb: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """[H, W, 3] -> [1.5 * H, W]; chroma of every other pixel, which is good enough to encode."""
    yuv = np.rint(rgb @ Colour("bt601", "limited").rgb_to_yuv()[:, :3].T / 255 + [16, 128, 128]).astype(np.uint8)
    planes = (yuv[:, :, 0], yuv[::2, ::2, 1], yuv[::2, ::2, 2])
    return np.concatenate([plane.ravel() for plane in planes]).reshape(-1, rgb.shape[1])


def _call(call: Callable[[], Any], times: int) -> float:
    """Median wall milliseconds of a call."""
    call()
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        durations.append((time.perf_counter() - started) * 1000)
    return statistics.median(durations)


def _folded_call(backend: str, spec: EngineSpec) -> Callable[[], None]:
    runner = open_runner(backend, spec)
    inputs = tuple(np.empty(shape, np.uint8) for shape in ((HEIGHT, WIDTH), *[(HEIGHT // 2, WIDTH // 2)] * 2))
    outputs = tuple(np.empty(shape, np.uint8) for shape in spec.output_planes(HEIGHT, WIDTH))
    _fill(inputs)
    return lambda: runner.infer(inputs, outputs)


def _stock_call() -> Callable[[], Any]:
    """A session as anyone would make it: default options, the network as published."""
    import onnxruntime

    session = onnxruntime.InferenceSession(MODEL.reference_onnx, providers=["CPUExecutionProvider"])
    picture = downscale(draw(0), SUPERSAMPLING)[None]
    return lambda: session.run(None, {"rgb": picture})


def _fill(planes: Planes) -> None:
    """Planes of a real picture: speed may depend on the values."""
    picture = downscale(draw(0), SUPERSAMPLING)
    for plane in planes:
        step = picture.shape[0] // plane.shape[0]
        plane[...] = picture[::step, ::step, 0]
