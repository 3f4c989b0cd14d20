"""From a training run to what the service ships: checkpoint, model card, ONNX files. `python -m models.publish --help`.

Run it again for every model after a change to folding or export.
"""

import argparse
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from models.checkpoint import load_checkpoint
from models.evaluation.protocol import evaluate
from models.export import export, export_unfolded, folded
from models.registry import HERE, Model, build_network, find_model
from models.training.trainer import upscale

log = logging.getLogger("models.publish")

TEST_SETS = ("set5", "set14", "bsd100")


def publish(model: Model, trained: Path | None, data: Path) -> None:
    """Writes checkpoint, ONNX files and card of `model`; without `trained`, anew from the checkpoint that is there."""
    network = build_network(model.architecture, model.scale)
    card: dict[str, Any] = {"name": model.name, "scale": model.scale, "architecture": model.architecture}
    if model.architecture != "bicubic":
        model.checkpoint.parent.mkdir(exist_ok=True)
        if trained:
            shutil.copyfile(trained, model.checkpoint)
        load_checkpoint(network, model.checkpoint)
        card |= _training(model.checkpoint)
        export_unfolded(network.eval(), model.reference_onnx)
    card["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    card["parameters_folded"] = sum(parameter.numel() for parameter in folded(network).parameters())
    model.onnx("rgb").parent.mkdir(exist_ok=True)
    export(network, model.scale, "rgb", model.onnx("rgb"))
    export(network, model.scale, "yuv420", model.onnx("yuv420"))
    card["figures"] = {name: _figures(network, model.scale, data, name) for name in TEST_SETS}
    card_path = HERE / "checkpoints" / f"{model.title}.json"
    card_path.write_text(json.dumps(card, indent=2) + "\n")
    log.info("%s: %s", model.title, json.dumps(card["figures"]))


def _training(checkpoint: Path) -> dict[str, Any]:
    """What the card says of the training, from the checkpoint's own header."""
    with safe_open(checkpoint, "pt") as file:
        header = file.metadata()
    return {
        "training": {
            "step": int(header["step"]),
            "validation_psnr_y": float(header["validation_psnr_y"]),
            "chosen_by": "best PSNR-Y on pictures held out of the training set; no test set was looked at",
            "config": json.loads(header["config"]),
            "data": "977 crops (129 megapixels) of photographs, wallpapers, game stills and drawings; "
            "some of the pictures are for research use only",
        },
        "intended_use": "upscaling clean, lightly compressed video and pictures; strong compression is amplified",
    }


def _figures(network: Any, scale: int, data: Path, name: str) -> dict[str, float]:
    """Scores of the unfolded FP32 network on a test set with the low-resolution files that the literature uses."""
    result = evaluate(lambda low: upscale(network, low), scale, data / "test" / name, data / f"test_lr_x{scale}" / name)
    return {"psnr_y": round(result.psnr_y, 3), "ssim_y": round(result.ssim_y, 4)}


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
