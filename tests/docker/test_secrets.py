"""`make secrets`: what the containers are given, once, and readable for who has to read it."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from server.keyfile import read_keys

REPOSITORY = Path(__file__).parents[2]
NAMES = {
    "admin_key",
    "api_keys",
    "grafana_admin_password",
    "hook_secret",
    "metrics_key",
    "play_key",
    "publish_key",
    "stream_keys",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Secrets, just made."""
    return made(tmp_path / "secrets")


def made(folder: Path) -> Path:
    given = {"FOURFOLD_SECRETS": str(folder), "FOURFOLD": f"{sys.executable} -m server.cli"}
    script = REPOSITORY / "docker" / "make-secrets.sh"
    subprocess.run([script], env=os.environ | given, check=True, capture_output=True, timeout=120)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_they_are_readable_inside_a_container_and_nowhere_else(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert contents(folder).keys() >= NAMES
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.name in NAMES} == {0o444}


def test_prometheus_may_read_metrics_and_nothing_else(folder: Path) -> None:
    scopes = {key.name: key.scopes for key in read_keys(folder / "api_keys")}
    assert scopes == {"admin": ("admin",), "prometheus": ("metrics",)}


def test_what_nginx_and_grafana_get_is_random(folder: Path, tmp_path: Path) -> None:
    other = contents(made(tmp_path / "others"))
    for name in ("hook_secret", "grafana_admin_password"):
        assert re.fullmatch(r"[0-9a-f]{48}", contents(folder)[name])
        assert contents(folder)[name] != other[name]


def test_what_is_there_stays(folder: Path) -> None:
    before = contents(folder)
    made(folder)
    assert contents(folder) == before
