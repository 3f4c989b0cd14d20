"""What `fourfold bench` counts, tells and writes down. How long things take is no matter of tests."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest

from engines.backends import CPU_BACKENDS
from engines.backends.openvino import OpenVINOBackend
from engines.runner import EngineSpec, Goal
from models.errors import FourfoldError
from server.bench import contenders
from server.bench.engines import EngineBench, bench_engines, parse_size
from server.bench.machine import describe
from server.bench.measure import flood, ratios, spread
from server.bench.peers import STOCK
from server.bench.pipeline import PipelineBench, bench_pipeline
from server.bench.plots import PLOTTED, draw
from server.bench.render import MARKER, WANTED, load, page
from server.bench.roofline import Needs, count
from server.bench.service import ServiceBench, bench_service
from server.bench.streams import Stamp, evaluate
from server.bench.tables import text
from server.catalogue import find_graphs
from tests.support.engines import spec_of

ROOT = Path(__file__).parents[2]

Result = dict[str, Any]


@pytest.fixture(scope="module")
def engines() -> Result:
    """A run that is over at once, without the peers that take long to start."""
    peers = (STOCK, "PyTorch eager", "OpenCV bicubic", "swscale bicubic", "swscale Lanczos")
    return bench_engines(EngineBench(sizes=((32, 18),), peers=peers, rounds=2, seconds=0.0), lambda line: None)


@pytest.fixture(scope="module")
def pipeline() -> Result:
    return bench_pipeline(PipelineBench(streams=(1, 2), frames=8, rounds=1), lambda line: None)


def test_the_page_is_what_the_results_give() -> None:
    written = (ROOT / "docs/performance.md").read_text()
    results = load(ROOT / "bench/results")
    assert written.partition(MARKER)[2].strip() == page(results).strip()
    plotted = {name for name, result in results.items() if result["kind"] in PLOTTED}
    assert {path.stem for path in (ROOT / "docs").glob("bench-*.svg")} == plotted


def test_what_was_never_measured_is_listed_until_it_is(engines: Result) -> None:
    empty = page({})
    assert all(what in empty for what, _ in WANTED)
    arm = engines | {"machine": engines["machine"] | {"architecture": "aarch64"}}
    assert "ARM CPU" not in page({"bench-arm": arm})


def test_operations_are_those_of_the_folded_convolutions() -> None:
    _, graphs = find_graphs("xlsr", 4, "yuv420")
    head, body, merge, skip, tail = 3 * 32 * 9, 3 * 32 * 32 * 9, 32 * 32, 3 * 32 * 9, 32 * 48 * 9
    to_rgb, to_yuv, chroma = 3 * 3, 48 * 24, 2 * 4 * 9  # the last one for every fourth pixel
    pixels, weights = 480 * 270, head + body + merge + skip + tail + to_rgb + to_yuv + chroma
    needs = count(EngineSpec(graphs, 480, 270))
    assert needs.multiply_adds == pixels * (weights - chroma) + pixels // 4 * chroma
    assert needs.weights == weights
    assert needs.frame_bytes == pixels * 3 // 2 * (1 + 16)


def test_the_floor_is_the_longer_of_arithmetic_and_traffic() -> None:
    needs = Needs(multiply_adds=1000, frame_bytes=900, weights=100)
    assert needs.floor_ms("int8", {"int8": 1000.0, "copy": 1e6}) == 2000
    assert needs.floor_ms("int8", {"int8": 1e9, "copy": 1000.0}) == 1000
    assert needs.floor_ms("bf16", {"bf16": 1e9, "copy": 1000.0}) == 1100
    assert needs.floor_ms("fp16", {"fp32": 1.0, "copy": 1.0}) is None


def test_ratios_are_taken_within_a_round() -> None:
    assert ratios([2.0, 40.0, 2.0], [1.0, 10.0, 4.0]) == {"median": 2.0, "min": 0.5, "max": 4.0}
    assert spread([1.23456, 1.0, 3.0]) == {"median": 1.235, "min": 1.0, "max": 3.0}


def test_a_flood_never_hands_out_a_frame_that_is_still_on_its_way() -> None:
    from concurrent.futures import Future, ThreadPoolExecutor

    busy: set[int] = set()
    with ThreadPoolExecutor(2) as lanes:

        def upscale(frame: int) -> float:
            busy.remove(frame)
            return 0.0

        def submit(frame: int) -> Future[float]:
            assert frame not in busy
            busy.add(frame)
            return lanes.submit(upscale, frame)

        flood(submit, [0, 1, 2])(50)
    assert not busy


def test_a_run_counts_its_middle() -> None:
    """Two streams, a frame every 0.1 s in turn but for a slow start and end; one core busy all the time."""
    seconds = [0.0, 5.0, *(5.0 + 0.1 * i for i in range(1, 17)), 9.0, 20.0]
    run = evaluate([Stamp(i % 2, at, at, 0.5) for i, at in enumerate(seconds)], streams=2)
    assert run.fps == pytest.approx(12 / (6.6 - 5.4), rel=0.01)
    assert run.slowest_fps == pytest.approx(run.fps / 2, rel=0.01)
    assert run.core_ms == pytest.approx(100)
    assert (run.p50_ms, run.p99_ms) == pytest.approx((500, 500))


def test_engines_stand_beside_peers_and_their_floor(engines: Result) -> None:
    (case,) = engines["cases"]
    ours = {(r["name"], r["precision"], r["goal"]) for r in case["rows"] if r["kind"] == "engine"}
    assert {(name, "fp32", goal) for name in CPU_BACKENDS for goal in ("latency", "throughput")} <= ours
    for row in case["rows"]:
        assert row["ms"]["min"] <= row["ms"]["median"] <= row["ms"]["max"] and len(row["rounds_ms"]) == 2
        assert row["times_stock"] or row["device"] == "cuda"
        assert (row["floor_ms"] is not None) == (row["kind"] == "engine")
    peers = {row["name"] for row in case["rows"] if row["kind"] == "peer"}
    assert {STOCK, "PyTorch eager", "swscale bicubic", "swscale Lanczos"} <= peers


def test_nothing_is_silently_missing(engines: Result) -> None:
    (case,) = engines["cases"]
    why = {(row["name"], row["precision"]): row["why"] for row in case["missing"]}
    assert why["torch.compile (cpu)", "fp32"] == "not asked for"
    assert all(why.values())
    assert "OpenCV bicubic" in {row["name"] for row in case["rows"]} or "pip install" in why["OpenCV bicubic (cpu)", "uint8"]


def test_files_are_timed_stage_by_stage_and_in_streams(pipeline: Result) -> None:
    assert pipeline["stages"].keys() == {"decode_core_ms", "infer_core_ms", "encode_core_ms", "infer_ms", "core_ms"}
    assert [run["streams"] for run in pipeline["runs"]] == [1, 2]
    for run in pipeline["runs"]:
        assert {
            "fps",
            "fps_per_stream",
            "slowest_fps",
            "efficiency",
            "p50_ms",
            "p95_ms",
            "p99_ms",
            "left_core_ms",
        } <= run.keys()
        assert run["peak_rss_bytes"] > 1 << 26
    assert pipeline["engine"]["layout"].keys() == {"lanes", "threads", "batch"}
    assert pipeline["input"].startswith("480x270") and pipeline["output"].startswith("1920x1080 libx264")


def test_results_say_where_they_come_from(engines: Result, pipeline: Result) -> None:
    for result in (engines, pipeline):
        assert describe().keys() < result.keys()
        assert {"python", "numpy", "openvino", "av", "ffmpeg"} <= result["versions"].keys()
        assert result["machine"]["cores"] and result["machine"]["memory_bytes"] > 1 << 28
        assert json.loads(json.dumps(result)) == result
        assert result["versions"]["openvino"] in text(result)


def test_plots_are_the_same_every_time(engines: Result, pipeline: Result, tmp_path: Path) -> None:
    for result in (engines, pipeline):
        for name in ("one", "two"):
            draw(result, tmp_path / f"{name}.svg")
        first, second = ((tmp_path / f"{name}.svg").read_bytes() for name in ("one", "two"))
        assert first == second and b"<svg" in first


def test_wrong_sizes_and_unknown_peers_are_refused() -> None:
    assert parse_size("480x270") == (480, 270)
    for size in ("480", "x270", "0x2", "481x270", "²x2"):
        with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
            parse_size(size)
    with pytest.raises(FourfoldError, match="there is no peer Topaz; there are ONNX Runtime, stock"):
        bench_engines(EngineBench(peers=("Topaz",)), print)


def test_a_service_is_measured_from_outside() -> None:
    said = list[str]()
    result = bench_service(ServiceBench("bicubic", 2, 2, 3, 2, 10, 1, 8, 4), said.append)
    assert result["kind"] == "service" and "ready after" in said[0]
    streams, soak = result["streams"], result["soak"]
    assert streams["sent"] == 20 == streams["answered"] + streams["dropped"]
    assert 0 < streams["latency_ms"]["p50"] <= streams["latency_ms"]["max"]
    assert (
        result["idle_bytes"] > 0
        and result["idle_session_bytes"] is not None
        and soak["after_all"]["bytes"] > 0
        and soak["processes"] >= 4
    )
    assert "2 streams of 480x270 JPEG at 10 frames/s | p50" in text(result)


def test_bench_alone_says_what_there_is() -> None:
    command = [sys.executable, "-m", "server.cli", "bench"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert all(name in said.stdout + said.stderr for name in ("engines", "pipeline", "service"))


class SwitchableBackend(OpenVINOBackend):
    """Stands for a backend of a card: OpenVINO, with a switch that it tells."""

    made: ClassVar[list[bool]] = []

    def __init__(self, graphs: bool = True) -> None:
        self.made.append(graphs)


def test_backends_with_cuda_graphs_are_timed_without_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "BACKENDS", ("openvino",))
    monkeypatch.setattr(contenders, "GRAPH_BACKENDS", ("openvino",))
    monkeypatch.setattr(contenders, "find_backend", lambda name: SwitchableBackend())
    here = contenders.Field()
    with ExitStack() as stack:
        contenders.open_engines(here, spec_of("bicubic", 4, "yuv420", 32, 18), stack)
        names = [(c.about["name"], c.about["goal"]) for c in here.contenders if c.about["precision"] == "fp32"]
        assert all(c.work(c.least) > 0 for c in here.contenders)
    assert names == [(name, goal) for goal in get_args(Goal) for name in ("openvino", "openvino, no CUDA graphs")]
    assert False in SwitchableBackend.made
