"""PyTorch on an NVIDIA card: runs the network itself, folded, with no compiler in between."""

import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from engines.card import Card, describe_device, require_cuda
from engines.cuda import CudaRunner, cuda_layouts
from engines.runner import BackendUnavailableError, EngineSpec, Goal, Layout, Precision
from models.errors import FourfoldError

if TYPE_CHECKING:
    from torch import Tensor, nn


class TorchBackend:
    """What it compiles is the checkpoint: cuDNN picks its kernels when the runner starts."""

    name = "torch"

    def __init__(self, card: Callable[[], Card] = require_cuda, graphs: bool = True) -> None:
        """Args:
        card: makes sure that there is a card.
        graphs: whether runners launch a batch as one CUDA graph.
        """
        self._card, self._graphs = card, graphs

    def version(self) -> str:
        try:
            return version("torch")  # what is installed says it without being loaded
        except PackageNotFoundError as error:
            raise BackendUnavailableError("PyTorch is not installed; pip install 'fourfold[gpu]'") from error

    def device(self) -> str:
        return describe_device()

    def precisions(self) -> dict[Precision, str]:
        self._card()
        return {"fp16": "NVIDIA's tensor cores multiply it natively", "fp32": "every card can"}

    def layouts(self, goal: Goal, cores: int) -> list[Layout]:
        return cuda_layouts(goal)

    def build(self, spec: EngineSpec) -> bytes:
        if spec.graphs.checkpoint is None:
            raise BackendUnavailableError(f"{spec.graphs.title} has no checkpoint, and PyTorch runs nothing else")
        return spec.graphs.checkpoint.read_bytes()

    def load(self, compiled: bytes, spec: EngineSpec) -> CudaRunner:
        self._card()
        import torch

        torch.backends.cudnn.allow_tf32 = False  # FP32 is FP32, also where colours are converted
        torch.backends.cudnn.benchmark = bool(spec.width)  # trying all kernels pays where one size is all that comes
        return CudaRunner(TorchNetwork(serving_module(compiled, spec), spec), spec, graphs=self._graphs)


BACKEND = TorchBackend()


class TorchNetwork:
    """A module on a device; see `engines.cuda.Network`."""

    def __init__(self, module: "nn.Module", spec: EngineSpec, device: str = "cuda") -> None:
        import torch

        self._module = module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        colour = (spec.colour.yuv_to_rgb(), spec.colour.rgb_to_yuv()) if spec.colour else ()
        self._colour = [torch.from_numpy(values).to(device) for values in colour]

    def __call__(self, lane: int, inputs: "tuple[Tensor, ...]") -> "Sequence[Tensor]":
        """See `engines.cuda.Network`."""
        import torch

        with torch.inference_mode():
            results = self._module(*inputs, *self._colour)
        return results if isinstance(results, tuple) else (results,)


def serving_module(checkpoint: bytes, spec: EngineSpec) -> "nn.Module":
    """The network of a checkpoint file's content, folded, in the spec's precision, with uint8 borders; on the CPU.

    Raises:
        BackendUnavailableError: that is no checkpoint, or one of another scale.
    """
    try:
        import torch

        from models.checkpoint import load_checkpoint, read_header
        from models.export import folded, serving_graph
        from models.registry import build_network
        from models.video_io import HalfPrecision, RgbSubpixelGraph
    except ImportError as error:
        raise BackendUnavailableError(f"PyTorch needs more to load a network ({error}); pip install 'fourfold[gpu]'") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{spec.graphs.title}.safetensors"
        path.write_bytes(checkpoint)
        try:
            architecture, scale = read_header(path)
            network = build_network(architecture, scale)
            load_checkpoint(network, path)
        except FourfoldError as error:
            raise BackendUnavailableError(f"PyTorch cannot load {spec.graphs.title}: {error}") from error
    if scale != spec.scale:
        raise BackendUnavailableError(f"the checkpoint of {spec.graphs.title} is for x{scale}, not x{spec.scale}")
    network = folded(network)
    graph, _ = serving_graph(HalfPrecision(network) if spec.precision == "fp16" else network, scale, spec.form)
    if isinstance(graph, RgbSubpixelGraph):
        order = torch.as_tensor(graph.order)
        del graph.order
        graph.register_buffer("order", order)  # on the device with all else: a CUDA graph cannot read a list of the host's
    return graph.eval()
