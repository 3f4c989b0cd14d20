"""Every figure of docs/quality.md, and contact sheets to look at, by one command: `python -m server.quality` (`make quality`).

Pictures are scored through engines on the exported graphs: in FP32, and INT8 ones on each CPU backend; compressed clips in
FP32. FP16 has no engine on a CPU: its figures are PyTorch's, from `models.publish`.
"""

import argparse
import json
import os
from collections.abc import Container, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from engines.backends import CPU_BACKENDS
from models.evaluation.protocol import Distance, evaluate, read_rgb
from models.registry import MODELS
from models.resize import UInt8Image, crop_to_multiple, downscale
from server.distance import find_distance
from server.images import ImageUpscaler
from server.video_scores import score_video

SETS = ("set5", "set14", "bsd100", "game10")
LIVE_MODELS = ("bicubic", "xlsr", "xlsr-live")
CRFS = (23, 28, 33)
FRAMES = 16  # of each clip
TILE = 176  # high-resolution pixels of a picture on a contact sheet

PAPERS: dict[int, dict[str, tuple[float | None, ...]]] = {  # PSNR-Y on Set5, Set14, BSD100, as published
    4: {
        "Swift-SRGAN": (25.13, 23.29, None),
        "SRGAN": (29.40, 26.02, 25.16),
        "SRCNN": (30.07, 27.18, 26.68),
        "ESPCN": (30.76, 27.66, 27.02),
        "ECBSR-M4C16": (30.87, 27.80, 27.06),
        "ETDS-S": (31.19, 28.01, 27.18),
        "SRResNet": (32.05, 28.49, 27.58),
    },
    3: {"XLSR": (33.42, 29.73, 28.55)},
    2: {},
}

PARTS = ("sheets", "clips", "pictures")
RESULTS, PAGE = Path("bench/results/quality.json"), Path("docs/quality.md")
MARKER = "<!-- everything below is written by `make quality` -->"

Scores = dict[str, dict[str, dict[str, float]]]
"""Title of a model -> test set -> metric -> value."""


def measure_pictures(data: Path, titles: Container[str]) -> Scores:
    """Scores the models of these titles in FP32 on every test set, and their INT8 graphs on every backend."""
    distance = find_distance(data, print)
    scores: Scores = {}
    for model in (model for model in MODELS if model.title in titles):
        runs = {model.title: ("openvino", "fp32")}
        if "int8" in model.precisions:
            runs |= {f"{model.title} int8 {backend}": (backend, "int8") for backend in CPU_BACKENDS}
        for title, (backend, precision) in runs.items():
            with ImageUpscaler(model.name, model.scale, backend, precision) as upscaler:
                scores[title] = {name: _score(upscaler, model.scale, data, name, distance) for name in SETS}
            print(title, scores[title], flush=True)
    return scores


def measure_clips(data: Path) -> list[dict[str, Any]]:
    """Scores the models for live streams on every clip and rate factor."""
    scores = []
    for clip in sorted((data / "video").glob("*.mp4")):
        for score in score_video(clip, list(LIVE_MODELS), 4, list(CRFS), FRAMES, "openvino", "fp32"):
            print(score, flush=True)
            scores.append(asdict(score))
    return scores


def draw_sheets(data: Path, folder: Path) -> None:
    """A contact sheet for each scale and test set."""
    for scale in sorted({model.scale for model in MODELS}):
        for name in SETS:
            _draw_sheet(folder / f"{name}-x{scale}.png", scale, sorted((data / "test" / name).iterdir())[:6])


def _score(upscaler: ImageUpscaler, scale: int, data: Path, name: str, distance: Distance | None) -> dict[str, float]:
    low = data / f"test_lr_x{scale}" / name
    result = evaluate(upscaler.upscale, scale, data / "test" / name, low if low.exists() else None, distance)
    figures = {"psnr_y": round(result.psnr_y, 3), "ssim_y": round(result.ssim_y, 4)}
    return figures | ({} if result.squeeze_distance is None else {"squeeze_distance": round(result.squeeze_distance, 4)})


def _draw_sheet(path: Path, scale: int, sources: list[Path]) -> None:
    """A row for each picture: its middle, upscaled by each model of `scale`, and as it is."""
    names = [model.name for model in reversed(MODELS) if model.scale == scale]
    rows: list[list[UInt8Image]] = []
    highs = [crop_to_multiple(read_rgb(source), scale) for source in sources]
    for name in names:
        with ImageUpscaler(name, scale, "openvino", "fp32") as upscaler:
            rows.append([_middle(upscaler.upscale(downscale(high, scale))) for high in highs])
    columns = [*rows, [_middle(high) for high in highs]]
    sheet = Image.new("RGB", (TILE * len(columns), TILE * len(highs) + 14), "white")
    draw = ImageDraw.Draw(sheet)
    for x, (title, column) in enumerate(zip([*names, "original"], columns, strict=True)):
        draw.text((x * TILE + 3, 1), title, fill="black")
        for y, tile in enumerate(column):
            sheet.paste(Image.fromarray(tile), (x * TILE, 14 + y * TILE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _middle(image: UInt8Image) -> UInt8Image:
    top, left = ((side - TILE) // 2 for side in image.shape[:2])
    return np.ascontiguousarray(image[max(0, top) : top + TILE, max(0, left) : left + TILE])


def render(results: dict[str, Any]) -> str:
    """docs/quality.md, but for the text around the tables."""
    pictures: Scores = results["pictures"]
    scales = sorted({model.scale for model in MODELS}, reverse=True)
    sections = [_picture_table(scale, pictures) for scale in scales]
    return "\n\n".join([*sections, _precision_table(pictures), _clip_table(results["clips"])])


def _picture_table(scale: int, pictures: Scores) -> str:
    models = [model for model in MODELS if model.scale == scale]
    rows = [[f"**{m.name}**", *(_cell(pictures.get(m.title, {}).get(name)) for name in SETS)] for m in models]
    rows += [
        [f"{name} (paper)", *("–" if v is None else f"{v:.2f}" for v in values), "–"] for name, values in PAPERS[scale].items()
    ]
    return f"## x{scale}: PSNR-Y dB / SSIM-Y / squeeze_distance\n\n" + _table(["", *SETS], rows)


def _cell(figures: dict[str, float] | None) -> str:
    if not figures:
        return "–"
    distance = figures.get("squeeze_distance")
    return f"{figures['psnr_y']:.2f} / {figures['ssim_y']:.4f} / " + ("–" if distance is None else f"{distance:.3f}")


def _precision_table(pictures: Scores) -> str:
    """What FP16 and INT8 cost: differences of PSNR-Y to FP32."""
    rows = []
    for model in MODELS:
        card = model.card()
        runs = {f"{p.upper()}, PyTorch": figures for p, figures in card["figures_of_other_precisions"].items()}
        runs |= {f"INT8, {title.split()[-1]}": pictures[title] for title in pictures if title.startswith(f"{model.title} int8")}
        for name, figures in runs.items():
            drops = (figures[s]["psnr_y"] - card["figures"][s]["psnr_y"] if s in figures else None for s in SETS[:3])
            rows.append([model.title, name, *("–" if drop is None else f"{drop:+.3f}" for drop in drops)])
    return "## Other precisions: PSNR-Y against FP32, dB\n\n" + _table(["", "", *SETS[:3]], rows)


def _clip_table(clips: list[dict[str, Any]]) -> str:
    """Means over all clips."""
    rows = []
    for crf in CRFS:
        for name in dict.fromkeys(score["model"] for score in clips):
            scores = [score for score in clips if score["crf"] == crf and score["model"] == name]
            names = scores[0]["vmaf"] or {}
            judged = [f"{fmean(score['vmaf'][key] for score in scores):.1f}" for key in names] or ["–", "–"]
            means = [f"{fmean(s[key] for s in scores):.3f}" for key in ("psnr_y", "flicker")]
            rows.append([str(crf), name, *means, *judged])
    header = ["CRF", "model", "PSNR-Y dB", "flicker", "VMAF", "VMAF-NEG"]
    return f"## Compressed clips, x4, means over {len({s['clip'] for s in clips})} clips\n\n" + _table(header, rows)


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FOURFOLD_DATA", "../shared/data")))
    parser.add_argument("--sheets", type=Path, default=Path("sheets"), help="folder for contact sheets")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to do anew; all by default")
    titles = [model.title for model in MODELS]
    parser.add_argument("--models", nargs="+", choices=titles, default=titles, help="score the pictures of these anew")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"pictures": {}, "clips": []}
    if "sheets" in arguments.parts:
        draw_sheets(arguments.data, arguments.sheets)
    if "clips" in arguments.parts:
        results["clips"] = measure_clips(arguments.data)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if "pictures" in arguments.parts:
        results["pictures"] |= measure_pictures(arguments.data, arguments.models)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    written = PAGE.read_text().partition(MARKER)[0]
    PAGE.write_text(f"{written}{MARKER}\n\n{render(results)}\n")


if __name__ == "__main__":
    main()
