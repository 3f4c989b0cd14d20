"""Training configurations are checked key by key."""

from pathlib import Path

import pytest

from models.registry import HERE
from models.training.config import ConfigError, load_config

SHIPPED = sorted((HERE / "training" / "configs").glob("*.toml"))
GOOD = (HERE / "training" / "configs" / "xlsr-x4.toml").read_text()


def refused(tmp_path: Path, before: str, after: str) -> str:
    """The message for the shipped configuration with one change."""
    assert before in GOOD
    path = tmp_path / "run.toml"
    path.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configurations_load(path: Path) -> None:
    config = load_config(path)
    assert path.stem.startswith(config.network.name) and f"-x{config.network.scale}" in path.stem
    assert (config.compression is not None) == ("-live-" in path.stem)
    assert (config.adversarial is not None) == (path.stem == "swift-srgan-x4")


def test_names_a_key_missing_in_an_optional_section(tmp_path: Path) -> None:
    message = refused(tmp_path, "[network]", "[compression]\nshare = 0.5\n[network]")
    assert "missing key compression.crf, compression.presets, compression.versions;" in message


def test_whole_numbers_are_floats_too(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(GOOD.replace("rescale = [1.0, 0.75, 0.5]", "rescale = [1, 0.5]"))
    config = load_config(path)
    assert config.training.checkpoint_seconds == 50.0 and isinstance(config.training.checkpoint_seconds, float)
    assert config.data.rescale == [1.0, 0.5] and isinstance(config.data.rescale[0], float)


def test_names_an_unknown_key(tmp_path: Path) -> None:
    message = refused(tmp_path, "seed = 1", "seed = 1\nlearning_rat = 3e-3")
    assert "unknown key training.learning_rat;" in message and "learning_rate" in message


def test_names_an_unknown_section(tmp_path: Path) -> None:
    assert "unknown key extra; known are adversarial, compression, data, network, training" in refused(
        tmp_path, "[network]", "[extra]\n[network]"
    )


def test_names_a_missing_key(tmp_path: Path) -> None:
    assert "missing key data.crop;" in refused(tmp_path, "crop = 32", "")


def test_names_a_missing_section(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(GOOD[: GOOD.index("[training]")])
    with pytest.raises(ConfigError, match="missing key training"):
        load_config(path)


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("batch = 16", 'batch = "16"', "training.batch = '16'"),
        ("batch = 16", "batch = 16.0", "training.batch = 16.0"),
        ("batch = 16", "batch = true", "training.batch = True"),
        ("compile = true", "compile = 1", "training.compile = 1"),
        ("learning_rate = 2.5e-3", "learning_rate = true", "training.learning_rate = True"),
        ('name = "xlsr"', "name = 4", "network.name = 4"),
        ("rescale = [1.0, 0.75, 0.5]", "rescale = 1.0", "data.rescale = 1.0"),
        ("rescale = [1.0, 0.75, 0.5]", 'rescale = [1.0, "half"]', "data.rescale[1] = 'half'"),
    ],
)
def test_names_a_value_of_the_wrong_type(tmp_path: Path, before: str, after: str, key: str) -> None:
    assert f"{key} is of the wrong type; it takes" in refused(tmp_path, before, after)


def test_names_a_section_that_is_a_value(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("network = 4\n" + GOOD[GOOD.index("[data]") :])
    with pytest.raises(ConfigError, match=r"network = 4 is of the wrong type; it takes a table, \[network\]"):
        load_config(path)


@pytest.mark.parametrize("content", [b"= broken", b"\xff\xfe"])
def test_names_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.toml is not a TOML file"):
        load_config(path)


def test_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read: No such file"):
        load_config(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("rescale = [1.0, 0.75, 0.5]", "rescale = [1.5]", "data.rescale = [1.5]; it takes factors above 0, up to 1"),
        ("rescale = [1.0, 0.75, 0.5]", "rescale = []", "data.rescale = []; it takes factors"),
        ("validation_every = 49", "validation_every = 1", "data.validation_every = 1; it takes 2 or more"),
        ("ema_decay = 0.999", "ema_decay = 1.0", "training.ema_decay = 1.0; it takes"),
        (
            "[network]",
            '[compression]\nshare = 2\nversions = 1\ncrf = [1, 2]\npresets = ["fast"]\n[network]',
            "compression.share = 2.0",
        ),
        (
            "[network]",
            '[compression]\nshare = 1\nversions = 1\ncrf = [3, 2]\npresets = ["fast"]\n[network]',
            "compression.crf = [3, 2]",
        ),
        (
            "[network]",
            '[compression]\nshare = 1\nversions = 1\ncrf = [1, 2]\npresets = ["quick"]\n[network]',
            "presets = ['quick']",
        ),
    ],
)
def test_names_a_value_that_makes_no_sense(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert message in refused(tmp_path, before, after)


@pytest.mark.parametrize("key", ["steps", "batch", "crop", "validation_every"])
def test_names_a_number_that_is_too_small(tmp_path: Path, key: str) -> None:
    (line,) = [line for line in GOOD.splitlines() if line.startswith(f"{key} =")]
    assert f".{key} = 0; it takes 1 or more" in refused(tmp_path, line, f"{key} = 0")
