"""The page of figures says what was measured."""

import json
from pathlib import Path

import pytest

from models.registry import MODELS
from server.quality import CRFS, MARKER, render

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    loaded: dict[str, dict[str, dict[str, dict[str, float]]]] = json.loads((ROOT / "bench/results/quality.json").read_text())
    return loaded


def test_the_page_is_what_the_results_give(results: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    page = (ROOT / "docs/quality.md").read_text()
    assert page.partition(MARKER)[2].strip() == render(results).strip()


def test_every_model_is_measured_and_agrees_with_its_card(results: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    for model in MODELS:
        for name, figures in model.card()["figures"].items():
            measured = results["pictures"][model.title][name]
            assert measured["psnr_y"] == pytest.approx(figures["psnr_y"], abs=0.005)


def test_the_live_model_is_the_best_on_compressed_clips(results: dict[str, list[dict[str, float]]]) -> None:
    """Mean PSNR-Y over the clips, at each rate factor."""
    for crf in CRFS:
        means = {}
        for name in ("bicubic", "xlsr", "xlsr-live"):
            scores = [s["psnr_y"] for s in results["clips"] if s["crf"] == crf and s["model"] == name]
            means[name] = sum(scores) / len(scores)
        assert means["xlsr-live"] > max(means["xlsr"], means["bicubic"])
