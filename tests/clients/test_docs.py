"""The programs in the documentation do what they say, as they stand."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest
from PIL import Image

from tests.support.clips import write
from tests.support.documents import blocks
from tests.support.pictures import encoded, ramp
from tests.support.service import RunningService

RECIPES, README, CLIENTS = "docs/recipes.md", "clients/python/README.md", "docs/clients.md"

AROUND = """
import asyncio
import time
from fourfold_client import AsyncClient

def camera():
    for _ in range(40):  # some may be late
        time.sleep(0.05)
        yield bytes(480 * 270 * 3)

def show(sequence, data):
    print(sequence, data[:2].hex())

async def main():
"""
"""What the page about the client leaves to its reader."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the programs take: a picture, a video, a folder of frames."""
    (tmp_path / "small.png").write_bytes(encoded(ramp(24, 32), "PNG"))
    write(tmp_path / "small.mp4")
    (tmp_path / "frames").mkdir()
    for number in range(3):
        (tmp_path / "frames" / f"{number}.jpg").write_bytes(encoded(ramp(24, 32), "JPEG"))
    return tmp_path


def run(command: list[str], folder: Path, service: RunningService) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
    environment["FOURFOLD_URL"] = service.url
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_curl(service: RunningService, folder: Path) -> None:
    [program] = blocks(RECIPES, "sh")
    assert '"state":"done"' in run(["sh", "-e", "-c", program], folder, service)
    assert size_of(folder / "large.png") == (128, 96)
    assert (folder / "large.mp4").read_bytes()[4:8] == b"ftyp"


def test_python(service: RunningService, folder: Path) -> None:
    [program] = blocks(RECIPES, "python")
    assert len(program.splitlines()) < 25
    assert "2.jpg took" in run([sys.executable, "-c", program], folder, service)
    assert [size_of(path) for path in sorted((folder / "upscaled").iterdir())] == [(128, 96)] * 3


def test_the_readme_of_the_client(service: RunningService, folder: Path) -> None:
    picture, video, live = (run([sys.executable, "-c", program], folder, service) for program in blocks(README, "python"))
    assert (picture, live) == ("", "")
    assert "downloading 100%" in video
    assert size_of(folder / "large.png") == size_of(folder / "upscaled-2.jpg") == (128, 96)
    assert (folder / "large.mp4").read_bytes()[4:8] == b"ftyp"


def test_live_frames_of_the_page(service: RunningService, folder: Path) -> None:
    [program] = blocks(CLIENTS, "python")
    program = f"{AROUND}{indent(program, '    ')}\nasyncio.run(main())"
    assert set(run([sys.executable, "-c", program], folder, service).split()[1::2]) == {"ffd8"}  # JPEG
