"""What is published: a wheel that works alone, in an environment that has nothing of ours."""

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.support.clips import write
from tests.support.service import ADDRESS

REPOSITORY = Path(__file__).parents[1]
WHEEL_BYTES = 15_000_000
START_SECONDS = 120

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a clean environment with the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "--quiet", wheel)
    return folder / "bin"


def run(*command: str | Path) -> str:
    """Standard output of a command, outside of the repository."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd="/", env=clean, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_the_wheel_is_small_and_holds_what_it_should(wheel: Path) -> None:
    assert wheel.stat().st_size < WHEEL_BYTES
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {name.split("/")[0] for name in names} == {"engines", "models", "server", wheel.name.split("-py3")[0] + ".dist-info"}
    assert not [name for name in names if "test" in name]
    for path in (REPOSITORY / "clients" / "web").glob("*"):
        assert f"server/web/{path.name}" in names


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    (stated,) = re.findall(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.M)
    assert wheel.name.startswith(f"fourfold-{stated}-")
    assert version("fourfold") == stated, "install it again: .venv/bin/pip install -e ."


def test_pytorch_is_not_needed(scripts: Path) -> None:
    names = {entry["name"] for entry in json.loads(run(scripts / "pip", "list", "--format", "json"))}
    assert "openvino" in names
    assert not names & {"torch", "onnx", "onnxruntime", "pytest"}


def test_it_upscales_a_video(scripts: Path, tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", width=64, frames=8)
    told = run(scripts / "fourfold", "video", tmp_path / "clip.mp4", tmp_path / "out.mp4", "--json")
    figures = json.loads(told)
    assert (figures["frames_out"], figures["output"]["width"]) == (8, 256)


def test_it_serves(scripts: Path, tmp_path: Path) -> None:
    with running(scripts / "fourfold", tmp_path) as url:
        page = json.loads(urlopen(f"{url}/openapi.json", timeout=30).read())
        assert page["info"]["version"] == version("fourfold")


@contextmanager
def running(program: Path, folder: Path) -> Iterator[str]:
    """Where the service answers that it is ready."""
    given = {"FOURFOLD_PORT": "0", "FOURFOLD_DATA_FOLDER": str(folder / "data"), "FOURFOLD_CACHE": str(folder / "cache")}
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen([program, "serve"], cwd="/", env=os.environ | given, stderr=file)
    try:
        yield _ready(process, log)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := ADDRESS.search(log.read_text()):
            url = f"http://127.0.0.1:{found['port']}"
            with suppress(URLError, OSError), urlopen(f"{url}/health/ready", timeout=10):
                return url
        time.sleep(0.1)
    raise AssertionError(f"the service did not start: {log.read_text()}")
