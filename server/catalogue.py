"""From what a user writes after `--model` to the graphs that an engine runs."""

import hashlib
import os
from pathlib import Path

from engines.cache import cache_folder
from engines.runner import Graphs
from models.errors import FourfoldError
from models.registry import Form, UnknownModelError, build_network, find_model


def find_graphs(model: str, scale: int, form: Form) -> tuple[str, Graphs]:
    """The name and the graphs of `model`: a name of the registry, a checkpoint file, or `auto` (the best PSNR at this scale).

    Raises:
        UnknownModelError: neither a model nor a file of that name, or not at this scale.
        CheckpointError: the file is no checkpoint of ours.
    """
    if model.endswith(".safetensors"):
        return _from_checkpoint(Path(model), scale, form)
    found = find_model(model, scale)
    files = {precision: found.onnx(form, precision) for precision in found.precisions}
    checkpoint = found.checkpoint if found.checkpoint.exists() else None  # bicubic interpolation has no weights
    return found.name, Graphs(found.title, scale, form, files, checkpoint)


def _from_checkpoint(path: Path, scale: int, form: Form) -> tuple[str, Graphs]:
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
    return path.stem, Graphs(path.stem, scale, form, {"fp32": target}, path)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
