"""Engines: what comes out of each backend, in-process and in a process of its own, is the network's picture."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.backends import CPU_BACKENDS, find_backend
from engines.build import build, open_runner
from engines.cache import cache_folder
from engines.engine import LocalEngine
from engines.runner import Layout, PlaneFrame, Precision
from engines.shuffle import shuffle
from engines.slots import FrameFormat, SlotPool
from models.evaluation.metrics import psnr
from models.registry import MODELS, Form
from tests.support.engines import picture_planes, run, spec_of

SIZES = ((64, 48), (47, 33), (1, 1))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("width,height", SIZES)
@pytest.mark.parametrize("form", ["rgb", "yuv420"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title)
def test_backends_agree(model, form: Form, width: int, height: int) -> None:
    spec = spec_of(model.name, model.scale, form, width, height)
    inputs = picture_planes(form, height, width)
    ours, theirs = (run(backend, spec, inputs) for backend in CPU_BACKENDS)
    assert [plane.shape for plane in ours] == list(spec.output_planes(height, width))
    for first, second in zip(ours, theirs, strict=True):
        assert np.abs(first.astype(int) - second).max(initial=0) <= 1


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_dynamic_engine_takes_any_size(backend: str) -> None:
    dynamic = spec_of("xlsr", 4, "rgb", None, None)
    runner = open_runner(backend, dynamic)
    for width, height in SIZES:
        inputs = picture_planes("rgb", height, width)
        frame = PlaneFrame(inputs, (np.zeros((4 * height, 4 * width, 3), np.uint8),))
        runner.infer([frame])
        fixed = run(backend, replace(dynamic, width=width, height=height), inputs)
        assert np.abs(frame.outputs[0].astype(int) - fixed[0]).max() <= 1
    runner.close()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("form", ["rgb", "yuv420"])
def test_faster_precisions_stay_close_to_fp32(backend: str, form: Form, precision: Precision) -> None:
    if precision not in find_backend(backend).precisions():
        pytest.skip(f"{backend} has no {precision} on this machine")
    inputs = picture_planes(form, 64, 96)
    exact = run(backend, spec_of("xlsr", 4, form, 96, 64), inputs)
    fast = run(backend, spec_of("xlsr", 4, form, 96, 64, precision), inputs)
    assert not np.array_equal(exact[0], fast[0])
    assert psnr(exact[0].astype(float), fast[0].astype(float)) >= (40 if precision == "int8" else 45)


def test_engine_answers_every_slot() -> None:
    spec = replace(spec_of("xlsr", 4, "yuv420", 32, 24), layout=Layout(lanes=2))
    inputs = picture_planes("yuv420", 24, 32)
    expected = run("openvino", spec, inputs)
    with LocalEngine("openvino", spec, 4) as running:
        for _ in range(3):
            slots = [running.pool.acquire() for _ in range(4)]
            for slot in slots:
                for plane, values in zip(slot.inputs, inputs, strict=True):
                    plane[...] = values
            for future in [running.submit(slot) for slot in slots]:
                assert future.result(60) > 0
            for slot in slots:
                assert all(np.array_equal(a, b) for a, b in zip(slot.outputs, expected, strict=True))
                assert np.array_equal(slot.picture.ravel()[: expected[0].size], expected[0].ravel())
                running.pool.release(slot)


def test_pools_share_memory() -> None:
    spec = spec_of("bicubic", 4, "yuv420", 31, 17)
    mine = SlotPool(FrameFormat.of(spec), 3)
    theirs = SlotPool(FrameFormat.of(spec), 3, mine.descriptor)
    for number, slot in enumerate(mine.slots):
        for plane in (*slot.inputs, *slot.outputs):
            plane[...] = number + 1
    for number, slot in enumerate(theirs.slots):
        assert all((plane == number + 1).all() for plane in (*slot.inputs, *slot.outputs))
    mine.close()
    theirs.close()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shuffle_of_pictures(scale: int) -> None:
    phases = np.random.default_rng(1).integers(0, 256, (5, 7, 3 * scale**2), dtype=np.uint8)
    plane = np.zeros((5 * scale, 7 * scale, 3), np.uint8)
    shuffle(phases, (plane,), scale)
    expected = phases.reshape(5, 7, scale, scale, 3).transpose(0, 2, 1, 3, 4).reshape(plane.shape)
    assert np.array_equal(plane, expected)


@pytest.mark.parametrize("scale", [2, 4])
def test_shuffle_of_frames(scale: int) -> None:
    half = scale // 2
    phases = np.random.default_rng(2).integers(0, 256, (5, 7, scale**2 + 2 * half**2), dtype=np.uint8)
    planes = tuple(np.zeros((5 * f, 7 * f), np.uint8) for f in (scale, half, half))
    shuffle(phases, planes, scale)
    parts = np.split(phases, [scale**2, scale**2 + half**2], axis=2)
    for plane, part, factor in zip(planes, parts, (scale, half, half), strict=True):
        expected = part.reshape(5, 7, factor, factor).transpose(0, 2, 1, 3).reshape(plane.shape)
        assert np.array_equal(plane, expected)


def test_build_fills_the_cache_once_and_damage_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of("xlsr", 4, "yuv420", 32, 24)
    assert build("openvino", spec)
    assert not build("openvino", spec)
    assert build("openvino", replace(spec, width=40))
    (path,) = [p for p in (cache_folder() / "engines").glob("*.engine") if '"width": 32' in p.with_suffix(".json").read_text()]
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert build("openvino", spec)
    assert "damaged" in caplog.text


def test_nothing_is_reported_to_anyone() -> None:
    """OpenVINO's telemetry forks a child that can hang the exit: importing the backend must start none."""
    code = (
        "import multiprocessing, sys\n"
        "from engines.backends import find_backend\n"
        "find_backend('openvino').version()\n"
        "assert 'openvino' in sys.modules and sys.modules['openvino_telemetry'] is None\n"
        "assert not multiprocessing.active_children()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
