"""TensorRT without a card: every shipped graph is compiled for real by TensorRT-RTX, and what it was made of is looked at."""

import ctypes
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from engines.backends.tensorrt import LARGEST_SIDE, LEAST_SIDE, Library, TensorRTBackend, TensorRTNetwork, find_library
from engines.cache import cache_folder, compiled
from engines.card import NO_DEVICE, Card, find_card
from engines.cuda import CudaRunner
from engines.runner import BackendUnavailableError, EngineSpec, InferenceError, Layout, PlaneFrame, Precision
from models.registry import FORMS, MODELS, Form, Model
from tests.support.cuda import EagerCuda
from tests.support.engines import picture_planes, run, spec_of

trt: Any = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: no build for this machine")

CARD = Card("NVIDIA H200", (9, 0), (13, 0))
FILES = [pytest.param(m, p, f, id=f"{m.title}-{f}-{p}") for m in MODELS for p in m.precisions for f in FORMS]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))


class Watched:
    """Something of the library's, with what passes through it."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class WatchedConfig(Watched):
    timings: bytes | None = None

    def create_timing_cache(self, content: bytes) -> Any:
        self.timings = content
        return self.real.create_timing_cache(content)


class WatchedBuilder(Watched):
    """Keeps what was last made with it."""

    network: Any = None
    profile: Any = None
    config: Any = None

    def create_network(self, flags: int) -> Any:
        self.network = self.real.create_network(flags)
        return self.network

    def create_optimization_profile(self) -> Any:
        self.profile = self.real.create_optimization_profile()
        return self.profile

    def create_builder_config(self) -> Any:
        self.config = WatchedConfig(self.real.create_builder_config())
        return self.config

    def build_serialized_network(self, network: Any, config: WatchedConfig) -> Any:
        return self.real.build_serialized_network(network, config.real)


class WatchedLibrary(Watched):
    """The library, counting builds."""

    def __init__(self) -> None:
        super().__init__(trt)
        self.builders = list[WatchedBuilder]()

    def Builder(self, logger: Any) -> WatchedBuilder:  # noqa: N802
        self.builders.append(WatchedBuilder(trt.Builder(logger)))
        return self.builders[-1]


def watched(
    kind: type[TensorRTBackend] = TensorRTBackend, caches_timing: bool = False
) -> tuple[WatchedLibrary, TensorRTBackend]:
    module = WatchedLibrary()
    return module, kind(find=lambda: Library(module, "TensorRT-RTX", caches_timing), card=lambda: CARD)


def layer_types(network: Any) -> set[Any]:
    return {network.get_layer(index).type for index in range(network.num_layers)}


def value_types(network: Any) -> set[Any]:
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return {layer.get_output(0).dtype for layer in layers}


@pytest.mark.parametrize(("model", "precision", "form"), FILES)
def test_shipped_graphs_are_compiled_as_they_are_typed(model: Model, precision: Precision, form: Form) -> None:
    spec = replace(spec_of(model.name, model.scale, form, 480, 270, precision), layout=Layout(2, batch=4))
    library, backend = watched()
    assert len(backend.build(spec)) > 1000
    network = library.builders[0].network
    inputs = {tensor.name: tensor for tensor in map(network.get_input, range(network.num_inputs))}
    outputs = {tensor.name: tensor for tensor in map(network.get_output, range(network.num_outputs))}
    assert set(inputs) == ({"rgb"} if form == "rgb" else {"y", "u", "v", "yuv_to_rgb", "rgb_to_yuv"})
    for name, tensor in inputs.items():
        if name in ("yuv_to_rgb", "rgb_to_yuv"):
            assert (tensor.dtype, tuple(tensor.shape)) == (trt.DataType.FLOAT, (3, 4))
        else:
            shape = (-1, -1, -1, 3) if form == "rgb" else (-1, 1, -1, -1)
            assert (tensor.dtype, tuple(tensor.shape)) == (trt.DataType.UINT8, shape)
    assert set(outputs) in ({"phases"}, {"rgb_out"}, {"y_out", "u_out", "v_out"})
    assert all(tensor.dtype == trt.DataType.UINT8 and tensor.shape[0] == -1 for tensor in outputs.values())
    assert ({trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE} <= layer_types(network)) == (precision == "int8")
    assert (trt.DataType.HALF in value_types(network)) == (precision == "fp16")


def test_an_engine_of_one_size_takes_that_and_any_batch() -> None:
    library, backend = watched()
    backend.build(replace(spec_of("xlsr", 4, "yuv420", 33, 17), layout=Layout(2, batch=3)))
    profile = library.builders[0].profile
    assert [tuple(shape) for shape in profile.get_shape("y")] == [(1, 1, 17, 33), (3, 1, 17, 33), (3, 1, 17, 33)]
    assert [tuple(shape) for shape in profile.get_shape("v")] == [(1, 1, 9, 17), (3, 1, 9, 17), (3, 1, 9, 17)]
    assert [tuple(shape) for shape in profile.get_shape("u")] == [(1, 1, 9, 17), (3, 1, 9, 17), (3, 1, 9, 17)]


def test_an_engine_for_any_size_says_which() -> None:
    library, backend = watched()
    backend.build(replace(spec_of("xlsr", 4, "rgb", None, None), layout=Layout(batch=2)))
    shapes = [tuple(shape) for shape in library.builders[0].profile.get_shape("rgb")]
    assert shapes == [(1, LEAST_SIDE, LEAST_SIDE, 3), (2, 270, 480, 3), (2, LARGEST_SIDE, LARGEST_SIDE, 3)]


def test_colours_are_not_rounded_to_tf32() -> None:
    library, backend = watched()
    backend.build(spec_of("xlsr", 4, "yuv420", 48, 32, "fp16"))
    assert not library.builders[0].config.get_flag(trt.BuilderFlag.TF32)


class OtherDevice(TensorRTBackend):
    def device(self) -> str:
        return "NVIDIA L4, compute capability 8.9, driver for CUDA 13.0"


class OtherVersion(TensorRTBackend):
    def version(self) -> str:
        return "99.0 (TensorRT)"


def test_an_engine_is_built_once_for_each_device_and_version() -> None:
    spec = spec_of("xlsr", 4, "yuv420", 48, 32, "fp16")
    for kind in (TensorRTBackend, OtherDevice, OtherVersion):
        library, backend = watched(kind)
        engines = [compiled(backend, spec) for _ in range(2)]
        assert [engine.cached for engine in engines] == [False, True]
        assert engines[0].blob == engines[1].blob
        assert len(library.builders) == 1
    assert len(list((cache_folder() / "engines").glob("*.engine"))) == 3


def test_a_damaged_engine_is_built_anew() -> None:
    spec = spec_of("xlsr", 4, "yuv420", 48, 32, "fp16")
    _, backend = watched()
    whole = compiled(backend, spec)
    damaged = bytearray(whole.blob)
    damaged[len(damaged) // 2] ^= 1
    whole.path.write_bytes(damaged)
    again = compiled(backend, spec)
    assert not again.cached
    assert again.blob != bytes(damaged)


def test_two_processes_build_an_engine_once() -> None:
    code = (
        "from engines.backends.tensorrt import BACKEND\n"
        "from engines.cache import compiled\n"
        "from tests.support.engines import spec_of\n"
        "print(compiled(BACKEND, spec_of('swift-srgan-psnr', 4, 'yuv420', 48, 32)).cached)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate(timeout=120)[0].strip() for process in processes) == ["False", "True"]


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
def test_timings_are_kept_and_damage_is_noticed() -> None:
    library, backend = watched(caches_timing=True)
    spec = spec_of("xlsr", 4, "rgb", 48, 32)
    seen = list[bytes]()
    for damage in (False, True, False):
        backend.build(spec)
        seen.append(library.builders[-1].config.timings)
        (path,) = (cache_folder() / "timing").iterdir()
        content = path.read_bytes()
        assert hashlib.sha256(content[32:]).digest() == content[:32]
        if damage:
            path.write_bytes(content[:-1] + b"?")
    assert seen[0] == b""
    assert seen[1]
    assert seen[2] == b""


def write_onnx(path: Path, *nodes: Any, weights: Any = ()) -> EngineSpec:
    """A graph of the given nodes from `rgb` to `rgb_out`, as a spec."""
    rgb, out = (helper.make_tensor_value_info(n, TensorProto.UINT8, ["n", "h", "w", 3]) for n in ("rgb", "rgb_out"))
    model = helper.make_model(
        helper.make_graph(nodes, "graph", [rgb], [out], weights), opset_imports=[helper.make_opsetid("", 20)]
    )
    path.write_bytes(model.SerializeToString())
    spec = spec_of("xlsr", 4, "rgb", 48, 32)
    return replace(spec, graphs=replace(spec.graphs, files={"fp32": path}))


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    spec = write_onnx(tmp_path / "odd.onnx", helper.make_node("Frobnicate", ["rgb"], ["rgb_out"], "the_odd_one"))
    _, backend = watched()
    with pytest.raises(BackendUnavailableError, match=r"cannot compile odd\.onnx: node the_odd_one \(Frobnicate\)"):
        backend.build(spec)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    spec = write_onnx(tmp_path / "broken.onnx")
    spec.onnx.write_bytes(b"not a graph")
    _, backend = watched()
    with pytest.raises(BackendUnavailableError, match=r"cannot compile broken\.onnx"):
        backend.build(spec)


@pytest.mark.parametrize("where", ["../outside.bin", "/etc/passwd", "weights.bin"])
def test_weights_in_other_files_are_refused_before_anything_is_parsed(where: str, tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.UINT8, [1], b"\0", raw=True)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=where)
    spec = write_onnx(tmp_path / "split.onnx", helper.make_node("Add", ["rgb", "w"], ["rgb_out"]), weights=[weight])
    library, backend = watched()
    with pytest.raises(BackendUnavailableError, match=r"split\.onnx keeps weights in another file"):
        backend.build(spec)
    # Protocol Buffers let a length be written in more bytes than it needs, and fields come in any order
    spelled = spec.onnx.read_bytes().replace(b"\x0a\x08location", b"\x0a\x88\x80\x00location")
    spec.onnx.write_bytes(spelled)
    with pytest.raises(BackendUnavailableError, match=r"split\.onnx keeps weights in another file"):
        backend.build(spec)
    assert library.builders[-1].network.num_layers == 0


def test_no_shipped_graph_is_taken_for_one_with_weights_elsewhere() -> None:
    for model in MODELS:
        for form in FORMS:
            assert not any(tensor.external_data for tensor in onnx.load(model.onnx(form)).graph.initializer)


def no_driver() -> Card:
    return find_card(lambda name: ctypes.CDLL(f"{name}.of.a.machine.without.it"))


def test_without_a_driver_it_builds_and_says_why_it_runs_nothing() -> None:
    backend, spec = TensorRTBackend(card=no_driver), spec_of("xlsr", 4, "yuv420", 48, 32)
    plan = backend.build(spec)
    for ask in (backend.precisions, lambda: backend.load(plan, spec)):
        with pytest.raises(BackendUnavailableError, match="there is no NVIDIA driver on this machine"):
            ask()


def test_a_plan_that_cannot_be_loaded_says_why() -> None:
    _, backend = watched()
    with pytest.raises(BackendUnavailableError, match=r"cannot load xlsr-x4 on NVIDIA H200.*: .*[Ss]erializ"):
        backend.load(b"not a plan" * 100, spec_of("xlsr", 4, "yuv420", 48, 32))


def test_a_library_that_cannot_start_says_why() -> None:
    def nothing(logger: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module, backend = watched()
    module.Builder = nothing  # type: ignore[method-assign]
    with pytest.raises(BackendUnavailableError, match=r"TensorRT cannot start: .*nullptr"):
        backend.build(spec_of("xlsr", 4, "yuv420", 48, 32))


def test_either_library_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    backend = TensorRTBackend()
    assert backend.version() == f"{trt.__version__} (TensorRT-RTX)"
    assert backend.device() == NO_DEVICE or "compute capability" in backend.device()
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4", ILogger=trt.ILogger))
    assert TensorRTBackend().version() == "11.4 (TensorRT)"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(BackendUnavailableError, match=r"TensorRT cannot be loaded .*fourfold\[gpu\]"):
        find_library()


class FakeEngine:
    """A deserialised engine whose contexts compute with ONNX Runtime on the addresses that they were given."""

    def __init__(self, spec: EngineSpec) -> None:
        self.session = onnxruntime.InferenceSession(spec.onnx)
        self.inputs, self.outputs = ([t.name for t in side] for side in (self.session.get_inputs(), self.session.get_outputs()))
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors, self.contexts, self.works = len(self.names), list[FakeContext](), True

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        return trt.TensorIOMode.INPUT if name in self.inputs else trt.TensorIOMode.OUTPUT

    def create_execution_context(self, strategy: Any) -> Any:
        assert strategy == trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.shapes, self.addresses = engine, dict[str, tuple[int, ...]](), dict[str, int]()
        self.workspace, self.stream = (0, 0), 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        blank = {
            n: np.zeros(s, np.float32 if n.endswith(("rgb", "yuv")) and n != "rgb" else np.uint8)
            for n, s in self.shapes.items()
        }
        results = dict(zip(self.engine.outputs, self.engine.session.run(None, blank), strict=True))
        shape: tuple[int, ...] = results[name].shape
        return shape

    def update_device_memory_size_for_shapes(self) -> int:
        return 4096

    def set_device_memory(self, address: int, size: int) -> None:
        self.workspace = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        self.stream = stream
        feed = {name: self._memory(name, shape) for name, shape in self.shapes.items()}
        for name, result in zip(self.engine.outputs, self.engine.session.run(None, feed), strict=True):
            np.copyto(self._memory(name, result.shape), result)
        return self.engine.works

    def _memory(self, name: str, shape: tuple[int, ...]) -> Any:
        kind = ctypes.c_float if name in ("yuv_to_rgb", "rgb_to_yuv") else ctypes.c_uint8
        return np.ctypeslib.as_array(ctypes.cast(self.addresses[name], ctypes.POINTER(kind)), shape)


def runner_of(spec: EngineSpec) -> tuple[FakeEngine, CudaRunner]:
    """The runner that serves on a card, with the engine and the card replaced."""
    engine, library = (
        FakeEngine(spec),
        Library(
            SimpleNamespace(
                TensorIOMode=trt.TensorIOMode, ExecutionContextAllocationStrategy=trt.ExecutionContextAllocationStrategy
            ),
            "TensorRT",
            False,
        ),
    )
    logger = SimpleNamespace(last=lambda: "no room")
    network = TensorRTNetwork(library, engine, logger, spec, EagerCuda(), "cpu")
    return engine, CudaRunner(network, spec, sides=(LEAST_SIDE, LARGEST_SIDE), graphs=False, cuda=EagerCuda(), device="cpu")


@pytest.mark.parametrize("any_size", [True, False])
@pytest.mark.parametrize(("name", "scale", "form"), [("xlsr", 4, "yuv420"), ("xlsr", 3, "yuv420"), ("xlsr", 3, "rgb")])
def test_the_engine_is_given_every_tensor(name: str, scale: int, form: Form, any_size: bool) -> None:
    spec, inputs = spec_of(name, scale, form, None if any_size else 33, None if any_size else 17), picture_planes(form, 17, 33)
    spec = replace(spec, layout=Layout(2, batch=2))
    engine, runner = runner_of(spec)
    frames = [PlaneFrame(inputs, tuple(np.zeros(s, np.uint8) for s in spec.output_planes(17, 33))) for _ in range(2)]
    runner.infer(frames)
    right = run("onnxruntime", replace(spec, layout=Layout()), inputs)
    for frame in frames:
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(frame.outputs, right, strict=True))
    assert len(engine.contexts) == 2
    assert engine.contexts[0].stream == 7
    assert engine.contexts[0].workspace[0] and engine.contexts[0].workspace[1] == 4096
    runner.close()


def test_sizes_outside_the_profile_are_refused() -> None:
    spec = spec_of("xlsr", 4, "rgb", None, None)
    _, runner = runner_of(spec)
    frame = PlaneFrame(picture_planes("rgb", 8, 33), (np.zeros((32, 132, 3), np.uint8),))
    with pytest.raises(InferenceError, match="a frame of 33x8 came; this engine takes 16x16 to 4096x4096"):
        runner.infer([frame])


def test_an_engine_that_refuses_a_batch_fails_that_batch() -> None:
    spec = spec_of("xlsr", 4, "rgb", 33, 17)
    engine, runner = runner_of(spec)
    engine.works = False
    frame = PlaneFrame(picture_planes("rgb", 17, 33), (np.zeros((68, 132, 3), np.uint8),))
    with pytest.raises(InferenceError, match="TensorRT could not enqueue a batch: no room"):
        runner.infer([frame])


def test_asking_what_works_here_loads_no_torch() -> None:
    try:
        find_card()
    except BackendUnavailableError:
        pass
    else:
        pytest.skip("there is an NVIDIA card here, and PyTorch is asked about it")
    code = (
        "import sys\n"
        "from engines.backends import BACKENDS, find_backend\n"
        "from engines.runner import BackendUnavailableError\n"
        "for name in BACKENDS:\n"
        "    try:\n"
        "        find_backend(name).version(), find_backend(name).precisions()\n"
        "    except BackendUnavailableError as error:\n"
        "        print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("there is no NVIDIA driver on this machine") >= 2
