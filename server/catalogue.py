"""From what a user writes after `--model` to the graph that an engine runs."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from engines.cache import cache_folder
from engines.runner import Precision
from models.errors import FourfoldError
from models.registry import MODELS, Form, UnknownModelError, build_network, find_model


@dataclass(frozen=True)
class Graph:
    """A model in one form, ready for an engine."""

    model: str
    scale: int
    onnx: Path


def find_graph(model: str, scale: int, form: Form, precision: Precision) -> Graph:
    """The graph of `model`: a name of the registry, a checkpoint file, or `auto` (the best PSNR at this scale).

    Args:
        precision: that the engine is going to compute in; FP16 and INT8 are written into graphs of their own.

    Raises:
        UnknownModelError: neither a model nor a file of that name, or not at this scale or in this precision.
        CheckpointError: the file is no checkpoint of ours.
    """
    if model == "auto":
        model = next((m.name for m in MODELS if m.scale == scale), "auto")
    written = precision if precision in ("fp16", "int8") else "fp32"
    if model.endswith(".safetensors"):
        if written != "fp32":
            raise UnknownModelError(f"{model} has no {precision} graph: a checkpoint file runs in fp32 and bf16")
        return _from_checkpoint(Path(model), scale, form)
    found = find_model(model, scale)
    if written not in found.precisions:
        able = ", ".join(m.title for m in MODELS if written in m.precisions)
        raise UnknownModelError(f"{found.title} has no {precision} graph; of the models, {able} have one")
    return Graph(model, scale, found.onnx(form, written))


def _from_checkpoint(path: Path, scale: int, form: Form) -> Graph:
    """Exports a checkpoint into the cache, once."""
    if not path.is_file():
        raise UnknownModelError(f"{path} does not exist; give a model's name or a .safetensors checkpoint")
    try:
        from models.checkpoint import load_checkpoint, read_header
        from models.export import export
    except ImportError as error:
        raise FourfoldError(f"a checkpoint file needs PyTorch ({error}); pip install 'fourfold[train]'") from error
    architecture, trained_scale = read_header(path)
    if trained_scale != scale:
        raise UnknownModelError(f"{path} is a network for x{trained_scale}, not x{scale}; give --scale {trained_scale}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    target = cache_folder() / "models" / f"{digest}-{form}-fp32.onnx"
    if not target.exists():
        network = build_network(architecture, scale)
        load_checkpoint(network, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        export(network, scale, form, target)
    return Graph(path.stem, scale, target)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
