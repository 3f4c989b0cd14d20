"""What an operator gets wrong about settings is told in one line, and the service does not start."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from engines.backends import BACKENDS
from engines.runner import Precision
from server.errors import SettingsError
from server.keyfile import Limits, add_key
from server.settings import EngineName, PrecisionName, Settings, load_settings

SECRET = "ff_canary-canary-canary-canary-canary-canary"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("FOURFOLD_"):
            monkeypatch.delenv(name)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refusal(**overrides: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_setting_says_what_it_is_and_in_which_unit() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        for unit in ("seconds", "bytes", "pixels", "ms"):
            if name.endswith(f"_{unit}"):
                word = {"ms": "milliseconds"}.get(unit, unit)
                assert word in field.description.lower(), f"{name} does not say its unit"


def test_variables_win_over_the_file_and_options_over_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = written(tmp_path / "fourfold.toml", 'port = 1001\nmodel = "bicubic"\nallowed_origins = ["https://a.example"]\n')
    monkeypatch.setenv("FOURFOLD_CONFIG", str(config))
    assert (load_settings().port, load_settings().model) == (1001, "bicubic")
    assert load_settings().allowed_origins == ("https://a.example",)
    monkeypatch.setenv("FOURFOLD_PORT", "1002")
    assert load_settings().port == 1002
    assert load_settings(port=1003, host=None).port == 1003
    assert load_settings(host=None).host == "127.0.0.1"


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_ALLOWED_ORIGINS", "https://a.example, https://b.example")
    assert load_settings().allowed_origins == ("https://a.example", "https://b.example")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_API_KEYS_FILE", "")
    monkeypatch.setenv("FOURFOLD_PORT", "")
    assert (load_settings().api_keys_file, load_settings().port) == (None, 8000)


def test_data_lies_where_the_desktop_rules_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert load_settings().data_folder == tmp_path / "fourfold"
    monkeypatch.setenv("FOURFOLD_DATA_FOLDER", "~/elsewhere")
    assert load_settings().data_folder == Path.home() / "elsewhere"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FOURFOLD_PORT", "99999", ("FOURFOLD_PORT", "99999", "65535", "TCP port")),
        ("FOURFOLD_PORT", "eighty", ("FOURFOLD_PORT", "eighty", "integer")),
        ("FOURFOLD_MAX_STREAMS", "0", ("FOURFOLD_MAX_STREAMS", "greater than 0")),
        ("FOURFOLD_ALLOW_ANONYMOUS", "perhaps", ("FOURFOLD_ALLOW_ANONYMOUS", "perhaps", "boolean")),
        ("FOURFOLD_ENGINE", "steam", ("FOURFOLD_ENGINE", "steam", "openvino")),
        ("FOURFOLD_MODEL", "magic", ("FOURFOLD_MODEL", "magic", "xlsr, swift-srgan")),
        (
            "FOURFOLD_HLS_URL",
            "https://a.example/; script-src *",
            ("FOURFOLD_HLS_URL", "script-src", "without user, password or query"),
        ),
        ("FOURFOLD_HLS_URL", "media.example/hls", ("FOURFOLD_HLS_URL", "media.example/hls", "without user, password or query")),
        ("FOURFOLD_MAX_STREAM", "3", ("FOURFOLD_MAX_STREAM ", "did you mean FOURFOLD_MAX_STREAMS?")),
        ("FOURFOLD_COLOUR_OF_THE_SKY", "blue", ("FOURFOLD_COLOUR_OF_THE_SKY", "no setting")),
        ("FOURFOLD_CONFIG", "/nowhere.toml", ("FOURFOLD_CONFIG", "/nowhere.toml", "No such file")),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_the_fix(
    variable: str, value: str, told: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    message = refusal()
    for part in told:
        assert part in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 8000", ("prot", "did you mean port?")),
        ("port = 'eighty'", ("PORT", "eighty")),
        ("port = ", ("is not TOML",)),
        ("[port]\nnumber = 3", ("PORT", "integer")),
    ],
)
def test_a_wrong_file_is_told_the_same_way(
    text: str, told: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOURFOLD_CONFIG", str(written(tmp_path / "fourfold.toml", text)))
    message = refusal()
    for part in told:
        assert part in message


def test_engines_and_precisions_are_those_there_are() -> None:
    assert get_args(EngineName) == ("auto", *BACKENDS)
    assert get_args(PrecisionName) == ("auto", *get_args(Precision))


@pytest.mark.parametrize("variable", ["FOURFOLD_API_KEYS_FILE", "FOURFOLD_TLS_KEY", "FOURFOLD_API_KEY"])
def test_a_secret_in_the_wrong_place_is_not_repeated(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, SECRET)
    message = refusal()
    assert variable in message
    assert SECRET not in message


def test_tls_needs_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_TLS_CERT", str(written(tmp_path / "cert.pem", "")))
    assert "FOURFOLD_TLS_KEY is missing" in refusal()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "service.example"])
def test_a_public_address_needs_keys_or_a_word(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "FOURFOLD_ALLOW_ANONYMOUS=true" in refusal(host=host)
    monkeypatch.setenv("FOURFOLD_ALLOW_ANONYMOUS", "true")
    assert load_settings(host=host).host == host
    monkeypatch.delenv("FOURFOLD_ALLOW_ANONYMOUS")
    add_key(tmp_path / "keys.json", "someone", ["images"], None, Limits())
    monkeypatch.setenv("FOURFOLD_API_KEYS_FILE", str(tmp_path / "keys.json"))
    assert load_settings(host=host).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert load_settings(host=host).host == host


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FOURFOLD_PORT", "-1"),
        ("FOURFOLD_HOST", "0.0.0.0"),
        ("FOURFOLD_HOST", "203.0.113.77"),  # nobody's address here
        ("FOURFOLD_UNKNOWN", "1"),
        ("FOURFOLD_API_KEYS_FILE", SECRET),
    ],
)
def test_serve_does_not_start_and_says_why(variable: str, value: str) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("FOURFOLD_")}
    if value.startswith("203"):
        environment["FOURFOLD_ALLOW_ANONYMOUS"] = "true"
    command = [sys.executable, "-m", "server.cli", "serve"]
    result = subprocess.run(
        command, env=environment | {variable: value}, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert variable in result.stderr
    assert SECRET not in result.stderr + result.stdout


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environment = {name: text for name, text in os.environ.items() if not name.startswith("FOURFOLD_")}
        command = [sys.executable, "-m", "server.cli", "serve", "--port", port]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert f"FOURFOLD_PORT={port}" in result.stderr
