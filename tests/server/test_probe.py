"""The health check of the service's container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.probe import address
from server.settings import Settings
from tests.support.service import running_service


def probed(**settings: object) -> subprocess.CompletedProcess[str]:
    given = {f"FOURFOLD_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "server.probe"]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=60, check=False)


def test_it_agrees_while_the_service_lives(tmp_path: Path) -> None:
    with running_service(tmp_path, ready=False) as service:
        assert probed(port=service.port).returncode == 0
    told = probed(port=service.port)
    assert told.returncode == 1
    assert told.stderr.startswith("the service does not answer: ")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8000/health/live"),
        ({"host": "::", "port": 9000}, "http://[::1]:9000/health/live"),
        ({"tls_cert": "a.pem", "tls_key": "b.pem"}, "https://127.0.0.1:8000/health/live"),
    ],
)
def test_it_asks_where_the_service_is(given: dict[str, object], wanted: str) -> None:
    assert address(Settings(**given)) == wanted


def test_it_says_when_nobody_can_know() -> None:
    told = probed(port=0)
    assert told.returncode == 1
    assert "FOURFOLD_PORT=0" in told.stderr
