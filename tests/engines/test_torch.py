"""The PyTorch backend: the network of a checkpoint, as it would run on a card, computed on the CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engines.backends import find_backend
from engines.backends.torch import TorchBackend, TorchNetwork, serving_module
from engines.cache import compiled
from engines.card import Card
from engines.cuda import CudaRunner
from engines.runner import BackendUnavailableError, EngineSpec, Layout, PlaneFrame, Planes, Precision, Runner, plane_shapes
from models.registry import Form
from tests.support.cuda import EagerCuda
from tests.support.engines import picture_planes, spec_of

NETWORKS = [("xlsr", 4), ("xlsr", 3), ("xlsr", 2), ("swift-srgan-psnr", 4)]
BACKEND = TorchBackend(card=lambda: Card("NVIDIA H200", (9, 0), (13, 0)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))


def on_the_cpu(spec: EngineSpec, inputs: Planes) -> Planes:
    """A frame through the runner that serves on a card, with the card left out."""
    network = TorchNetwork(serving_module(BACKEND.build(spec), spec), spec, "cpu")
    return through(CudaRunner(network, spec, graphs=False, cuda=EagerCuda(), device="cpu"), spec, inputs)


def by_onnxruntime(spec: EngineSpec, inputs: Planes) -> Planes:
    backend = find_backend("onnxruntime")
    return through(backend.load(backend.build(spec), spec), spec, inputs)


def through(runner: Runner, spec: EngineSpec, inputs: Planes) -> Planes:
    height, width = inputs[0].shape[:2]
    frame = PlaneFrame(inputs, tuple(np.zeros(shape, np.uint8) for shape in spec.output_planes(height, width)))
    runner.infer([frame])
    runner.close()
    return frame.outputs


@pytest.mark.parametrize(("width", "height"), [(48, 32), (33, 17), (1, 1)])
@pytest.mark.parametrize("form", ["rgb", "yuv420"])
@pytest.mark.parametrize(("name", "scale"), NETWORKS)
def test_it_computes_what_the_graph_computes(name: str, scale: int, form: Form, width: int, height: int) -> None:
    spec, inputs = spec_of(name, scale, form, None, None), picture_planes(form, height, width)
    right = by_onnxruntime(spec, inputs)
    for ours, theirs in zip(on_the_cpu(replace(spec, width=width, height=height), inputs), right, strict=True):
        assert np.abs(ours.astype(int) - theirs).max(initial=0) <= 1


@pytest.mark.parametrize("form", ["rgb", "yuv420"])
@pytest.mark.parametrize(("name", "scale"), NETWORKS)
def test_half_precision_stays_close(name: str, scale: int, form: Form) -> None:
    spec, inputs = spec_of(name, scale, form, 24, 16), picture_planes(form, 16, 24)
    right = by_onnxruntime(spec, inputs)
    ours = on_the_cpu(replace(spec, precision="fp16"), inputs)
    assert any(not np.array_equal(half, full) for half, full in zip(ours, right, strict=True))
    assert all(np.abs(half.astype(int) - full).max() <= 4 for half, full in zip(ours, right, strict=True))


def test_a_batch_equals_its_frames() -> None:
    spec = replace(spec_of("xlsr", 4, "yuv420", 24, 16), layout=Layout(batch=3))
    network = TorchNetwork(serving_module(BACKEND.build(spec), spec), spec, "cpu")
    runner = CudaRunner(network, spec, graphs=False, cuda=EagerCuda(), device="cpu")
    random_ = np.random.default_rng(0)
    pictures = [
        tuple(random_.integers(0, 256, p.shape, dtype=np.uint8) for p in picture_planes("yuv420", 16, 24)) for _ in range(3)
    ]
    frames = [PlaneFrame(p, tuple(np.zeros(s, np.uint8) for s in spec.output_planes(16, 24))) for p in pictures]
    runner.infer(frames)
    for frame in frames:
        alone = on_the_cpu(spec, frame.inputs)
        assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(frame.outputs, alone, strict=True))


class OnlyOnTheDevice(TorchDispatchMode):
    """Refuses whatever reads tensors of the host: it would make the host wait, and no CUDA graph can hold it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device.type == "meta" for tensor in tensors), f"{func} reads the host's memory"
        result = func(*args, **(kwargs or {}))
        assert not any(isinstance(leaf, torch.Tensor) and leaf.device.type != "meta" for leaf in tree_leaves(result))
        return result


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("form", ["rgb", "yuv420"])
@pytest.mark.parametrize(("name", "scale"), NETWORKS)
def test_a_batch_reads_nothing_of_the_host(name: str, scale: int, form: Form, precision: Precision) -> None:
    """`meta` stands for the card: a device with no memory at all."""
    spec = spec_of(name, scale, form, 24, 16, precision)
    network = TorchNetwork(serving_module(BACKEND.build(spec), spec), spec, "meta")
    lead = (2,) if form == "rgb" else (2, 1)
    inputs = [torch.empty(*lead, *shape, dtype=torch.uint8, device="meta") for shape in plane_shapes(form, 16, 24)]
    with OnlyOnTheDevice():
        results = network(0, tuple(inputs))
    assert all(result.dtype == torch.uint8 for result in results)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_half_precision_module_is_half(precision: Precision) -> None:
    spec = spec_of("xlsr", 4, "yuv420", 24, 16, precision)
    types = {str(weight.dtype) for weight in serving_module(BACKEND.build(spec), spec).parameters()}
    assert types == {"torch.float16" if precision == "fp16" else "torch.float32"}


def test_the_cache_keeps_the_checkpoint() -> None:
    spec = spec_of("xlsr", 4, "yuv420", 24, 16, "fp16")
    assert spec.graphs.checkpoint
    assert compiled(BACKEND, spec).blob == spec.graphs.checkpoint.read_bytes()
    assert compiled(BACKEND, spec).cached


def test_bicubic_has_nothing_to_load() -> None:
    with pytest.raises(BackendUnavailableError, match="bicubic-x4 has no checkpoint"):
        BACKEND.build(spec_of("bicubic", 4, "rgb", 24, 16))


def test_checkpoints_are_loaded_strictly() -> None:
    spec = spec_of("xlsr", 4, "rgb", 24, 16)
    with pytest.raises(BackendUnavailableError, match=r"PyTorch cannot load xlsr-x4: .* safetensors"):
        serving_module(b"not a checkpoint", spec)
    whole = BACKEND.build(spec)
    with pytest.raises(BackendUnavailableError, match="PyTorch cannot load xlsr-x4"):
        serving_module(whole[:-100], spec)
    with pytest.raises(BackendUnavailableError, match="is for x2, not x4"):
        serving_module(BACKEND.build(spec_of("xlsr", 2, "rgb", 24, 16)), spec)


def test_without_a_card_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is an NVIDIA card here")
    backend, spec = TorchBackend(), spec_of("xlsr", 4, "rgb", 24, 16)
    assert backend.version()
    for ask in (backend.precisions, lambda: backend.load(backend.build(spec), spec)):
        with pytest.raises(BackendUnavailableError, match=r"NVIDIA|CUDA"):
            ask()
