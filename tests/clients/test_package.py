"""The distribution: what it costs to install and to import, and its version."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import fourfold_client

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "clients" / "python"
HEAVY = {"httpx", "httpcore", "anyio", "websockets", "numpy", "PIL", "server", "engines", "models"}


def project_version() -> str:
    return str(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"])


def build(folder: Path, target: Path, kind: str) -> Path:
    """Without an environment of its own: the network is not needed."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(target)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    [built] = target.iterdir()
    return built


def test_an_import_pulls_in_little() -> None:
    code = "import sys; before = set(sys.modules); import fourfold_client; print(*sorted(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    modules = result.stdout.split()
    assert HEAVY & {name.partition(".")[0] for name in modules} == set()
    assert len(modules) < 180  # nearly all of them asyncio's


def test_all_that_is_offered_is_there() -> None:
    assert [name for name in fourfold_client.__all__ if not hasattr(fourfold_client, name)] == []


def test_needs_two_libraries() -> None:
    assert sorted(name.partition(">")[0] for name in requires("fourfold-client") or []) == ["httpx", "websockets"]


def test_a_wheel_is_small_and_has_the_version_of_the_service(tmp_path: Path) -> None:
    wheel = build(PACKAGE, tmp_path, "wheel")
    assert wheel.name == f"fourfold_client-{project_version()}-py3-none-any.whl"
    assert wheel.stat().st_size < 100_000
    names = zipfile.ZipFile(wheel).namelist()
    assert "fourfold_client/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {"fourfold_client", f"fourfold_client-{project_version()}.dist-info"}


def test_a_source_distribution_stands_alone(tmp_path: Path) -> None:
    archive = build(PACKAGE, tmp_path / "source", "sdist")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "elsewhere", filter="data")
    [folder] = (tmp_path / "elsewhere").iterdir()
    assert build(folder, tmp_path / "wheel", "wheel").name.startswith(f"fourfold_client-{project_version()}-")


def test_is_installed_from_this_repository() -> None:
    assert Path(fourfold_client.__file__).parent == PACKAGE / "fourfold_client"
    assert version("fourfold-client") == project_version()
