"""ONNX Runtime's CUDA provider: never the CPU in disguise. The library is a fake here: it falls back as the real one does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from engines.backends.onnxruntime_cuda import PROVIDER, OnnxRuntimeCudaBackend, OnnxRuntimeCudaRunner
from engines.card import Card, find_card
from engines.runner import BackendUnavailableError, EngineDeadError, InferenceError, PlaneFrame
from tests.support.engines import picture_planes, run, spec_of

CPU = "CPUExecutionProvider"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))


def a_card() -> Card:
    return Card("NVIDIA H200", (9, 0), (13, 0))


class Library:
    """The real library, but for the providers that it says it has and starts."""

    def __init__(self, listed: list[str], started: list[str], error: Exception | None = None) -> None:
        self.__version__, self.SessionOptions = "1.31.1", onnxruntime.SessionOptions
        self._listed, self._started, self._error = listed, started, error
        self.asked: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return self._listed

    def preload_dlls(self) -> None:
        pass

    def InferenceSession(self, graph: bytes, options: Any, providers: list[Any]) -> Any:  # noqa: N802
        if self._error:
            raise self._error
        self.asked = providers
        session = onnxruntime.InferenceSession(graph, options, providers=[CPU])
        return SimpleNamespace(run=session.run, get_providers=lambda: self._started)


def backend_of(library: Library) -> OnnxRuntimeCudaBackend:
    return OnnxRuntimeCudaBackend(lambda: library, a_card)


def test_a_silent_fallback_is_an_error() -> None:
    spec, backend = spec_of("xlsr", 4, "yuv420", 24, 16), backend_of(Library([PROVIDER, CPU], [CPU]))
    with pytest.raises(BackendUnavailableError, match=f"cannot start its CUDA provider on NVIDIA H200.* fell back to {CPU}"):
        backend.load(backend.build(spec), spec)


def test_the_cpu_build_is_told_apart() -> None:
    with pytest.raises(BackendUnavailableError, match=r"1\.31\.1 is the CPU build; .*onnxruntime-gpu"):
        backend_of(Library([CPU], [CPU])).version()


def test_a_missing_library_is_told_apart() -> None:
    def missing() -> Any:
        raise ImportError("No module named 'onnxruntime'")

    with pytest.raises(BackendUnavailableError, match=r"No module named 'onnxruntime'.*fourfold\[gpu\]"):
        OnnxRuntimeCudaBackend(missing, a_card).version()


def test_a_provider_that_fails_says_why() -> None:
    backend = backend_of(Library([PROVIDER, CPU], [CPU], RuntimeError("libcudnn.so.9: cannot open shared object file")))
    spec = spec_of("xlsr", 4, "yuv420", 24, 16)
    with pytest.raises(BackendUnavailableError, match=r"cannot run xlsr-x4 on NVIDIA H200: libcudnn"):
        backend.load(backend.build(spec), spec)


def test_without_a_driver_it_says_so() -> None:
    def no_library(name: str) -> Any:
        raise OSError(name)

    backend = OnnxRuntimeCudaBackend(lambda: Library([PROVIDER, CPU], [PROVIDER, CPU]), lambda: find_card(no_library))
    spec = spec_of("xlsr", 4, "yuv420", 24, 16)
    for ask in (backend.precisions, lambda: backend.load(backend.build(spec), spec)):
        with pytest.raises(BackendUnavailableError, match="no NVIDIA driver"):
            ask()


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("CUDA failure 700: an illegal memory access was encountered", EngineDeadError),
        ("CUDA failure 2: out of memory", InferenceError),
        ("Non-zero status code returned while running Conv node", InferenceError),
    ],
)
def test_a_lost_card_is_told_from_a_lost_frame(text: str, becomes: type[Exception]) -> None:
    def fail(names: None, feed: Any) -> Any:
        raise RuntimeError(text)

    runner = OnnxRuntimeCudaRunner(SimpleNamespace(run=fail), spec_of("xlsr", 4, "rgb", 24, 16))
    with pytest.raises(becomes, match=text):
        runner.infer([PlaneFrame(picture_planes("rgb", 16, 24), (np.zeros((64, 96, 3), np.uint8),))])


def test_a_provider_that_starts_serves() -> None:
    library = Library([PROVIDER, CPU], [PROVIDER, CPU])
    backend, spec, inputs = backend_of(library), spec_of("xlsr", 4, "yuv420", 24, 16), picture_planes("yuv420", 16, 24)
    assert list(backend.precisions()) == ["fp16", "fp32"]
    runner = backend.load(backend.build(spec), spec)
    assert [name for name, _ in library.asked] == [PROVIDER]
    frame = PlaneFrame(inputs, tuple(np.zeros(shape, np.uint8) for shape in spec.output_planes(16, 24)))
    runner.infer([frame])
    runner.close()
    right = run("onnxruntime", spec, inputs)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(frame.outputs, right, strict=True))
