"""What README and quick start say to type works as it stands, block after block, in a copy of the repository.

Left out: the lines `make test` and `make check`, since a suite cannot run itself, and blocks marked `text`, which need Docker.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = ("README.md", "docs/quick-start.md")
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
LEFT_OUT = ("make test", "make check")
SERVICE = ".venv/bin/fourfold serve\n"
URL = "http://127.0.0.1:8000/health/ready"
SECONDS = 240

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """The tracked files as they are now; `make` finds an environment that is ready, whose `fourfold` runs this very copy."""
    folder = tmp_path / "fourfold"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():  # neither removed just now nor a folder that is linked
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "fourfold").write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec {sys.executable} -m server.cli "$@"\n')
    (programs / "fourfold").chmod(0o755)
    (folder / ".venv" / ".base").touch()
    yield folder


def blocks(page: str) -> list[str]:
    """The shell blocks of a page, without the lines that are not run here."""
    found = BLOCK.findall((REPOSITORY / page).read_text())
    kept = ["".join(line for line in block.splitlines(True) if line.strip() not in LEFT_OUT) for block in found]
    return [block for block in kept if block.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_works(page: str, copy: Path) -> None:
    assert not _taken(), "something listens on port 8000, where the page's service belongs: end it first"
    service: subprocess.Popen[bytes] | None = None
    try:
        for block in blocks(page):
            if block == SERVICE:
                service = _serving(copy)
            else:
                _run(block, copy)
    finally:
        if service:
            os.killpg(service.pid, signal.SIGTERM)
            service.wait(60)
    assert service, "the page starts the service"
    assert (copy / "demo" / "upscaled.mp4").stat().st_size > 10_000
    assert (copy / "demo" / "larger.png").stat().st_size > 10_000
    assert (copy / "secrets" / "api_keys").exists() == ("make secrets\n" in blocks(page))


@pytest.mark.parametrize("page", PAGES)
def test_the_page_shows_how_to_begin(page: str) -> None:
    text = "".join(blocks(page))
    assert "make demo" in text
    assert SERVICE in text


def _run(block: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def _serving(folder: Path) -> "subprocess.Popen[bytes]":
    """The service in the background, once it is ready."""
    log = folder / "service.log"
    given = {"FOURFOLD_DATA_FOLDER": str(folder / "data")}
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-c", SERVICE], cwd=folder, env=_environment() | given, stdout=file, stderr=file, start_new_session=True
        )
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers():
            return process
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"the service did not start: {log.read_text()}")


def _environment() -> dict[str, str]:
    """Without settings of whoever runs this."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
    return kept | {"FOURFOLD_CACHE": os.environ["FOURFOLD_CACHE"]}


def _taken() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 8000)) == 0


def _answers() -> bool:
    try:
        with urlopen(URL, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
