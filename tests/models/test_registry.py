"""What has a name is there, complete, and what has none is answered with what there is."""

import json
from dataclasses import asdict
from pathlib import Path

import onnx
import pytest

from models.checkpoint import load_checkpoint
from models.evaluation.protocol import evaluate
from models.registry import ARCHITECTURES, FORMS, HERE, MODELS, Model, UnknownModelError, build_network, find_model
from models.training.config import load_config
from models.training.trainer import upscale

BY_TITLE = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title)
CONFIGS = HERE / "training" / "configs"
TEST_SETS = ("set5", "set14", "bsd100")


@BY_TITLE
def test_model_has_all_its_files(model: Model) -> None:
    paths = [model.onnx("rgb"), model.onnx("yuv420")]
    if model.architecture != "bicubic":
        paths += [model.checkpoint, model.reference_onnx]
    for path in paths:
        assert path.stat().st_size > 0, path
        assert path.is_relative_to(HERE)


@BY_TITLE
def test_model_has_a_card(model: Model) -> None:
    card = model.card()
    network = build_network(model.architecture, model.scale)
    assert (card["name"], card["scale"], card["architecture"]) == (model.name, model.scale, model.architecture)
    assert card["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    for name in TEST_SETS:
        assert 20 < card["figures"][name]["psnr_y"] < 50
        assert 0.5 < card["figures"][name]["ssim_y"] < 1
    if model.architecture != "bicubic":
        trained = card["training"]["config"]["network"]
        assert (trained["name"], trained["scale"]) == (model.architecture, model.scale)


@BY_TITLE
def test_model_is_the_one_its_card_describes(model: Model, data: Path) -> None:
    network = build_network(model.architecture, model.scale).eval()
    if model.architecture != "bicubic":
        load_checkpoint(network, model.checkpoint)
    low = data / f"test_lr_x{model.scale}" / "set5"
    result = evaluate(lambda image: upscale(network, image), model.scale, data / "test" / "set5", low)
    assert result.psnr_y == pytest.approx(model.card()["figures"]["set5"]["psnr_y"], abs=0.01)
    assert result.ssim_y == pytest.approx(model.card()["figures"]["set5"]["ssim_y"], abs=0.001)


def test_the_default_beats_interpolation_clearly() -> None:
    assert find_model("xlsr", 4).card()["figures"]["set5"]["psnr_y"] >= 30.3


def test_of_one_scale_the_best_comes_first() -> None:
    for scale in {model.scale for model in MODELS}:
        figures = [model.card()["figures"]["set5"]["psnr_y"] for model in MODELS if model.scale == scale]
        assert figures == sorted(figures, reverse=True)


@pytest.mark.parametrize("model", [m for m in MODELS if m.architecture != "bicubic"], ids=lambda model: model.title)
def test_the_card_tells_the_training_that_the_configurations_describe(model: Model) -> None:
    """Settings that came later than a training are not in its card; all that are there agree with the file."""
    training = model.card()["training"]
    (path,) = [p for p in CONFIGS.glob(f"{model.title}*.toml") if training_of(p) == training_of_card(training["config"])]
    told = asdict(load_config(path))
    for section, settings in training["config"].items():
        for key, value in (settings or {}).items():
            assert told[section][key] == value or key == "checkpoint_seconds", (section, key)
    if told["network"]["start"]:
        assert training["start"]["config"]["network"]["name"] == model.architecture


def training_of(path: Path) -> tuple[int, int]:
    config = load_config(path)
    return config.training.steps, config.training.seed


def training_of_card(config: dict[str, dict[str, int]]) -> tuple[int, int]:
    return config["training"]["steps"], config["training"]["seed"]


def test_no_file_belongs_to_nobody() -> None:
    owned = {path.name for m in MODELS for path in (m.checkpoint, m.reference_onnx)}
    owned |= {model.onnx(form, precision).name for model in MODELS for form in FORMS for precision in model.precisions}
    owned |= {f"{model.title}.json" for model in MODELS}
    present = {path.name for folder in ("checkpoints", "onnx") for path in (HERE / folder).iterdir()}
    assert not {name for name in present if name.endswith((".onnx", ".safetensors", ".json"))} - owned


@pytest.mark.parametrize("path", sorted((HERE / "onnx").glob("*.onnx")), ids=lambda path: path.name)
def test_onnx_files_are_valid_and_name_no_machine(path: Path) -> None:
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert b".py" not in path.read_bytes()


def test_cards_are_tidy() -> None:
    for path in (HERE / "checkpoints").glob("*.json"):
        assert path.read_text() == json.dumps(json.loads(path.read_text()), indent=2) + "\n"


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_every_architecture_builds_at_its_scales(architecture) -> None:
    for scale in architecture.scales:
        assert build_network(architecture.name, scale).config.scale == scale


@pytest.mark.parametrize(("name", "scale"), [("xslr", 4), ("xlsr", 5), ("swift-srgan", 3)])
def test_an_unknown_architecture_is_answered_with_what_there_is(name: str, scale: int) -> None:
    with pytest.raises(UnknownModelError) as caught:
        build_network(name, scale)
    message = str(caught.value)
    assert f"{name} at x{scale}" in message
    assert "xlsr (x2, x3, x4), swift-srgan (x2, x4), bicubic (x2, x3, x4)" in message


@pytest.mark.parametrize(("name", "scale"), [("xslr", 4), ("bicubic", 8)])
def test_an_unknown_model_is_answered_with_what_there_is(name: str, scale: int) -> None:
    with pytest.raises(UnknownModelError) as caught:
        find_model(name, scale)
    assert f"{name} at x{scale}" in str(caught.value)
    for model in MODELS:
        assert f"{model.name} (x{model.scale})" in str(caught.value)


def test_finds_models() -> None:
    assert find_model("bicubic", 3).title == "bicubic-x3"
    assert find_model("xlsr", 4) is MODELS[0]
