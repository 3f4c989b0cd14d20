"""What others would use in our place: the network as published in PyTorch and ONNX Runtime, and plain interpolation.

Each is set up as its own documentation tells, no better and no worse, and handed what it is made for: RGB pictures in memory,
swscale planar frames. None of them converts colours, which ours do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engines.runner import BackendUnavailableError
from models.registry import Form, Model, build_network
from server.bench.machine import machine
from server.bench.roofline import Device
from server.media.scale import Interpolation, swscaler

Picture = npt.NDArray[np.uint8]
STOCK = "ONNX Runtime, stock"


@dataclass(frozen=True)
class Task:
    """What is to be upscaled: a frame of `model`'s input.

    Attributes:
        model: a model of the registry.
        rgb: [H, W, 3].
        i420: [1.5 * H, W]: the rows of y, then u, then v.
        cores: CPU cores to use.
    """

    model: Model
    rgb: Picture
    i420: Picture
    cores: int


@dataclass(frozen=True)
class Peer:
    """A way to upscale that is not ours.

    Attributes:
        name: of it in `--peer` and in tables.
        precision: of its arithmetic.
        form: of its pictures.
        device: that it computes on.
        open: gives a function that upscales one frame and returns when it is in host memory.

            Raises BackendUnavailableError where it is not installed or does not work here, with the reason.
    """

    name: str
    precision: str
    form: Form
    device: Device
    open: Callable[[Task], Callable[[], Picture]]


def _stock(provider: str) -> Callable[[Task], Callable[[], Picture]]:
    """ONNX Runtime's session with its default options on the network as published."""

    def open_session(task: Task) -> Callable[[], Picture]:
        library = _library("onnxruntime", "onnxruntime")
        if provider not in library.get_available_providers():
            raise BackendUnavailableError(f"this ONNX Runtime has no {provider}")
        if not task.model.reference_onnx.exists():
            raise BackendUnavailableError(f"{task.model.title} has no unfolded export")
        session = library.InferenceSession(task.model.reference_onnx, providers=[provider])
        if provider not in session.get_providers():
            raise BackendUnavailableError(f"ONNX Runtime could not start {provider}")
        picture = task.rgb[None]
        return lambda: np.asarray(session.run(None, {"rgb": picture})[0])

    return open_session


def _torch(
    device: Device, precision: Literal["fp32", "bf16", "fp16"], compiled: bool
) -> Callable[[Task], Callable[[], Picture]]:
    """PyTorch on the network as published; other precisions than FP32 by autocast."""

    def open_graph(task: Task) -> Callable[[], Picture]:
        torch = _library("torch", "torch")
        _check_torch(torch, device, precision)
        torch.set_num_threads(task.cores)
        graph = _published(task.model).to(device)
        graph = torch.compile(graph) if compiled else graph
        picture = torch.from_numpy(task.rgb)[None]
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

        def upscale() -> Picture:
            with torch.inference_mode(), torch.autocast(device, kind, enabled=precision != "fp32"):
                return np.asarray(graph(picture.to(device)).cpu().numpy())

        return upscale

    return open_graph


def _check_torch(torch: Any, device: Device, precision: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("there is no NVIDIA GPU that PyTorch could use")
    if (device, precision) == ("cpu", "bf16") and not {"avx512_bf16", "amx_bf16", "bf16"} & set(machine()["features"]):
        raise BackendUnavailableError("this CPU has no native BF16")


def _published(model: Model) -> Any:
    """The network as published with the model's weights, uint8 RGB in and out."""
    from models.video_io import RgbGraph

    network = build_network(model.architecture, model.scale)
    if model.checkpoint.exists():  # interpolation has none
        from models.checkpoint import load_checkpoint

        load_checkpoint(network, model.checkpoint)
    return RgbGraph(network).eval()


def _opencv(interpolation: str) -> Callable[[Task], Callable[[], Picture]]:
    def open_resize(task: Task) -> Callable[[], Picture]:
        library = _library("cv2", "opencv-python-headless")
        library.setNumThreads(task.cores)
        size = (task.rgb.shape[1] * task.model.scale, task.rgb.shape[0] * task.model.scale)
        return lambda: np.asarray(library.resize(task.rgb, size, interpolation=getattr(library, interpolation)))

    return open_resize


def _swscale(interpolation: Interpolation) -> Callable[[Task], Callable[[], Picture]]:
    return lambda task: swscaler(task.i420, task.model.scale, interpolation, task.cores)


PEERS = (
    Peer(STOCK, "fp32", "rgb", "cpu", _stock("CPUExecutionProvider")),
    Peer("PyTorch eager", "fp32", "rgb", "cpu", _torch("cpu", "fp32", compiled=False)),
    Peer("PyTorch eager", "bf16", "rgb", "cpu", _torch("cpu", "bf16", compiled=False)),
    Peer("torch.compile", "fp32", "rgb", "cpu", _torch("cpu", "fp32", compiled=True)),
    Peer("torch.compile", "bf16", "rgb", "cpu", _torch("cpu", "bf16", compiled=True)),
    Peer(STOCK, "fp32", "rgb", "cuda", _stock("CUDAExecutionProvider")),
    Peer("PyTorch eager", "fp32", "rgb", "cuda", _torch("cuda", "fp32", compiled=False)),
    Peer("PyTorch eager", "fp16", "rgb", "cuda", _torch("cuda", "fp16", compiled=False)),
    Peer("torch.compile", "fp32", "rgb", "cuda", _torch("cuda", "fp32", compiled=True)),
    Peer("torch.compile", "fp16", "rgb", "cuda", _torch("cuda", "fp16", compiled=True)),
    Peer("OpenCV bicubic", "uint8", "rgb", "cpu", _opencv("INTER_CUBIC")),
    Peer("OpenCV Lanczos", "uint8", "rgb", "cpu", _opencv("INTER_LANCZOS4")),
    Peer("swscale bicubic", "uint8", "yuv420", "cpu", _swscale("BICUBIC")),
    Peer("swscale Lanczos", "uint8", "yuv420", "cpu", _swscale("LANCZOS")),
)


def _library(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise BackendUnavailableError(f"not installed ({error}); pip install {package}") from error
