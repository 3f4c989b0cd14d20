"""From a training run to what the service ships: checkpoint, model card, ONNX files. `python -m models.publish --help`.

Run it again for every model after a change to folding or export.
"""

import argparse
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoint import CheckpointError, load_checkpoint, read_metadata
from models.evaluation.protocol import SQUEEZENET, evaluate, read_rgb
from models.evaluation.squeeze import SqueezeDistance
from models.export import export, export_unfolded, folded
from models.fold import FoldedXLSR
from models.quantise import QuantisedXLSR, calibrate
from models.registry import FORMS, HERE, Model, build_network, find_model
from models.resize import downscale
from models.training.trainer import upscale
from models.video_io import HalfPrecision

log = logging.getLogger("models.publish")

TEST_SETS = ("set5", "set14", "bsd100")


def publish(model: Model, trained: Path | None, data: Path) -> None:
    """Writes checkpoint, ONNX files and card of `model`; without `trained`, anew from the checkpoint that is there.

    Raises:
        CheckpointError: `trained` is of another network, or does not say how it was trained. Nothing was written then.
    """
    network = build_network(model.architecture, model.scale).eval()
    card: dict[str, Any] = {"name": model.name, "scale": model.scale, "architecture": model.architecture}
    card["intended_use"] = model.intended_use
    if model.architecture != "bicubic":
        checkpoint = trained or model.checkpoint
        load_checkpoint(network, checkpoint)
        card["training"] = _training(read_metadata(checkpoint), checkpoint)
    fast = folded(network)
    card["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    card["parameters_folded"] = sum(parameter.numel() for parameter in fast.parameters())
    variants = {"fp32": fast}
    if "fp16" in model.precisions:
        variants["fp16"] = HalfPrecision(fast)
    if "int8" in model.precisions:
        assert isinstance(fast, FoldedXLSR)
        card["int8_input_steps"] = calibrate(fast, _real_pictures(data / "train", model.scale))
        variants["int8"] = QuantisedXLSR(fast, card["int8_input_steps"])
    for precision, variant in variants.items():
        for form in FORMS:
            export(variant, model.scale, form, model.onnx(form, precision))
    figures = {}
    for precision, variant in variants.items():
        sets = TEST_SETS[:1] if precision == "fp16" else TEST_SETS  # half precision takes a CPU minutes
        figures[precision] = _figures(variant, model.scale, data, sets)
    card["figures"] = figures.pop("fp32")
    card["figures_of_other_precisions"] = figures
    if model.architecture != "bicubic":
        export_unfolded(network, model.reference_onnx)
        if trained:
            shutil.copyfile(trained, model.checkpoint)
    (HERE / "checkpoints" / f"{model.title}.json").write_text(json.dumps(card, indent=2) + "\n")
    log.info("%s: %s", model.title, json.dumps(card["figures"]))


def _real_pictures(folder: Path, scale: int) -> Iterator[Tensor]:
    """About 300 low-resolution training pictures [1, 3, H, W], RGB in 0..1."""
    for path in sorted(folder.rglob("*.webp"))[::3]:
        yield torch.from_numpy(downscale(read_rgb(path), scale)).permute(2, 0, 1)[None] / 255


def _training(header: dict[str, str], path: Path) -> dict[str, Any]:
    """What the card says of the training, and of the one that it started from, from a checkpoint's own header."""
    if not {"config", "step"} <= header.keys():
        raise CheckpointError(f"{path} does not say how it was trained; only checkpoints of fourfold train can be published")
    config = json.loads(header["config"])
    training = {
        "step": int(header["step"]),
        "validation_psnr_y": float(header["validation_psnr_y"]) if "validation_psnr_y" in header else None,
        "chosen_by": ("squeeze_distance" if config.get("adversarial") else "PSNR-Y")
        + " on pictures held out of the training set, not on a test set",
        "config": config,
        "data": "977 crops (129 megapixels) of photographs, wallpapers, game stills and drawings; "
        "some of the pictures are for research use only",
    }
    training |= {"between": header["between"]} if "between" in header else {}
    return training | ({"start": _training(json.loads(header["start"]), path)} if header.get("start") else {})


def _figures(network: nn.Module, scale: int, data: Path, sets: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Scores of `network` on test sets, with the low-resolution files that the literature uses."""
    distance = SqueezeDistance(data / SQUEEZENET).of_images
    figures = {}
    for name in sets:
        low = data / f"test_lr_x{scale}" / name
        result = evaluate(lambda image: upscale(network, image), scale, data / "test" / name, low, distance)
        assert result.squeeze_distance is not None
        scores = {"psnr_y": round(result.psnr_y, 3), "ssim_y": round(result.ssim_y, 4)}
        figures[name] = scores | {"squeeze_distance": round(result.squeeze_distance, 4)}
    return figures


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a name of the registry, such as xlsr")
    parser.add_argument("scale", type=int)
    parser.add_argument("--checkpoint", type=Path, help="best.safetensors of a training run; default: the shipped one")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FOURFOLD_DATA", "../shared/data")))
    arguments = parser.parse_args()
    publish(find_model(arguments.model, arguments.scale), arguments.checkpoint, arguments.data)


if __name__ == "__main__":
    main()
