"""The choice: the fastest that is right, remembered, and never anything but what was asked for."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

import engines.backends
import engines.choose
from engines.backends import find_backend
from engines.choose import choose, is_decided, measured
from engines.runner import (
    Backend,
    BackendUnavailableError,
    EngineSpec,
    Frame,
    Goal,
    InferenceError,
    Layout,
    Plane,
    Precision,
    Runner,
)
from engines.trial import try_apart
from tests.support.engines import spec_of


class FakeBackend:
    """OpenVINO under another name: slower, wrong, failing or absent on request."""

    def __init__(self, name: str, seconds: float = 0.0, wrong: bool = False, fails: bool = False, absent: bool = False) -> None:
        self.name, self._seconds, self._wrong, self._fails, self._absent = name, seconds, wrong, fails, absent
        self._openvino: Backend = find_backend("openvino")
        self.loads = 0

    def version(self) -> str:
        if self._absent:
            raise BackendUnavailableError(f"{self.name} is not installed")
        return "1"

    def device(self) -> str:
        return "fake"

    def precisions(self) -> dict[Precision, str]:
        return {"fp32": "as good as any"}

    def layouts(self, goal: Goal, cores: int) -> list[Layout]:
        return [Layout()] if goal == "latency" else [Layout(), Layout(lanes=2)]

    def build(self, spec: EngineSpec) -> bytes:
        return self._openvino.build(spec)

    def load(self, compiled: bytes, spec: EngineSpec) -> "FakeBackend._Runner":
        self.loads += 1
        return FakeBackend._Runner(self, self._openvino.load(compiled, spec))

    class _Runner:
        def __init__(self, backend: "FakeBackend", runner: Runner) -> None:
            self._backend, self._runner = backend, runner

        def infer(self, frames: Sequence[Frame]) -> None:
            time.sleep(self._backend._seconds)
            if self._backend._fails:
                raise InferenceError("out of memory")
            self._runner.infer(frames)
            if self._backend._wrong:
                for frame in frames:
                    frame.outputs[0][::2] = 0

        def pin(self, memory: Plane) -> None: ...

        def unpin(self, memory: Plane) -> None: ...

        def close(self) -> None:
            self._runner.close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Makes some backends the only ones there are."""

    def installed(*fakes: FakeBackend) -> None:
        for fake in fakes:
            monkeypatch.setitem(sys.modules, f"engines.backends.{fake.name}", SimpleNamespace(BACKEND=fake))  # type: ignore[arg-type]
        names = (*(fake.name for fake in fakes), "openvino")
        monkeypatch.setattr(engines.backends, "BACKENDS", names)
        monkeypatch.setattr(engines.choose, "BACKENDS", names[:-1])

    return installed


SPEC = spec_of("bicubic", 4, "yuv420", 64, 48)


def test_the_fastest_wins_wherever_it_stands(install) -> None:
    install(FakeBackend("slow", 0.08), FakeBackend("quick"), FakeBackend("middle", 0.04))
    choice = choose(SPEC, "latency", 2)
    assert choice.backend == "quick"
    assert "ms a frame in a trial; middle fp32" in choice.reason


def test_what_is_quick_but_wrong_or_failing_or_absent_does_not_serve(install) -> None:
    install(FakeBackend("wrong", wrong=True), FakeBackend("broken", fails=True), FakeBackend("absent", absent=True))
    with pytest.raises(BackendUnavailableError, match=r"dB against FP32.*out of memory"):
        choose(SPEC, "latency", 2)
    install(FakeBackend("wrong", wrong=True), FakeBackend("right", 0.05))
    assert choose(SPEC, "latency", 2).backend == "right"
    refused = measured(SPEC, "latency", 2)[-1]
    assert refused.backend == "wrong" and refused.frame_ms is None and "was refused" in str(refused.refusal)


def test_the_choice_is_remembered_until_something_changes(install) -> None:
    quick, slow, lines = FakeBackend("quick"), FakeBackend("slow", 0.05), list[str]()
    install(quick, slow)
    first = choose(SPEC, "latency", 2, say=lines.append)
    loads = quick.loads
    assert choose(SPEC, "latency", 2, say=lines.append) == first
    assert quick.loads == loads and len(lines) == 1
    quick.version = lambda: "2"  # type: ignore[method-assign]
    choose(SPEC, "latency", 2, say=lines.append)
    assert quick.loads > loads and len(lines) == 2


def test_lanes_are_chosen_by_measuring(install) -> None:
    """A backend that sleeps does so on two lanes at once."""
    install(FakeBackend("sleepy", 0.03), FakeBackend("slow", 0.2))
    assert choose(SPEC, "throughput", 2).spec.layout == Layout(lanes=2)


def test_what_is_asked_for_is_never_replaced(install) -> None:
    install(FakeBackend("quick"), FakeBackend("slow", 0.02), FakeBackend("absent", absent=True))
    choice = choose(SPEC, "latency", 2, "slow")
    assert choice.backend == "slow" and "asked for" in choice.reason
    with pytest.raises(BackendUnavailableError, match="absent is not installed"):
        choose(SPEC, "latency", 2, "absent")
    with pytest.raises(BackendUnavailableError, match="there is no engine abacus; there are auto, quick, slow"):
        choose(SPEC, "latency", 2, "abacus")
    with pytest.raises(BackendUnavailableError, match="slow cannot run bicubic-x4 in int8 here; it can in fp32"):
        choose(SPEC, "latency", 2, "slow", "int8")


def test_real_engines_have_a_winner() -> None:
    spec = spec_of("xlsr", 4, "yuv420", 64, 48)
    trials = measured(spec, "throughput", 1)
    assert {(t.backend, t.precision) for t in trials} >= {("openvino", "fp32"), ("openvino", "int8"), ("onnxruntime", "fp32")}
    assert all(trial.frame_ms for trial in trials)
    choice = choose(spec, "throughput", 1)
    assert (choice.backend, choice.spec.precision) == (trials[0].backend, trials[0].precision)


def test_trials_in_a_process_of_their_own_decide_and_their_crash_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("bicubic", 4, "rgb", None, None)
    wanted: tuple[EngineSpec, Goal, int, str, str] = (spec, "latency", 1, "auto", "fp32")
    assert not is_decided(*wanted)
    try_apart(*wanted)
    assert is_decided(*wanted)
    assert choose(*wanted).spec.precision == "fp32"
    unknown = (replace(spec, graphs=replace(spec.graphs, files={"fp32": spec.onnx, "int8": spec.onnx})), *wanted[1:4], "auto")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BackendUnavailableError, match=r"bicubic-x4 ended with exit code 1; name the one to use"):
        try_apart(*unknown)
