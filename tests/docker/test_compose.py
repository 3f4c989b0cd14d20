"""The compose files and Dockerfiles: valid for the tools that people have, and every container locked in."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from server.settings import PREFIX, Settings

REPOSITORY = Path(__file__).parents[2]
FIXED = {"host", "port", "data_folder", "shutdown_grace_seconds", "allow_anonymous", "tls_cert", "tls_key"}
"""Settings that .env may not give: they belong to the image, to `ports` and to `stop_grace_period`; keys are always asked for;
hooks and Prometheus speak HTTP."""
DOCKERFILES = sorted((REPOSITORY / "docker").glob("*.Dockerfile"))
CPU, GPU = ("docker-compose.yml",), ("docker-compose.yml", "docker-compose.gpu.yml")


def compose(files: tuple[str, ...], folder: Path, dotenv: str = "") -> subprocess.CompletedProcess[str]:
    """What docker-compose understands of the files, and of `dotenv` in the place of the .env of whoever runs this."""
    if shutil.which("docker-compose") is None:
        pytest.skip("there is no docker-compose here; `make system` installs it")
    given = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
    named = [argument for file in files for argument in ("--file", str(REPOSITORY / file))]
    (variables := folder / "variables.env").write_text(dotenv)
    command = ["docker-compose", "--env-file", str(variables), *named, "config"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=given, check=False)


def services(files: tuple[str, ...], folder: Path, dotenv: str = "") -> dict[str, Any]:
    told = compose(files, folder, f"FOURFOLD_SECRETS={folder}\n{dotenv}")
    assert told.returncode == 0, told.stderr
    understood: dict[str, Any] = yaml.safe_load(told.stdout)["services"]
    return understood


def test_without_secrets_it_says_what_makes_them(tmp_path: Path) -> None:
    told = compose(CPU, tmp_path)
    assert told.returncode == 1
    assert "run make secrets" in told.stderr


@pytest.mark.parametrize("files", [CPU, GPU])
def test_every_container_is_locked_in(files: tuple[str, ...], tmp_path: Path) -> None:
    found = services(files, tmp_path)
    assert found.keys() == {"server", "rtmp", "prometheus", "grafana"}
    for name, service in found.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.keys() & {"cap_add", "privileged", "devices", "network_mode", "pid"}, name
        assert service["mem_limit"] and service["pids_limit"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


@pytest.mark.parametrize("files", [CPU, GPU])
def test_limits_have_one_form(files: tuple[str, ...], tmp_path: Path) -> None:
    """Beside `deploy.resources.limits`, today's compose refuses `pids_limit`; 1.29 knows no limit of processes within."""
    for name, service in services(files, tmp_path).items():
        assert "limits" not in service.get("deploy", {}).get("resources", {}), name


def test_images_from_elsewhere_have_a_version_and_a_user(tmp_path: Path) -> None:
    for name, service in services(CPU, tmp_path).items():
        if "build" not in service:
            assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"]), name
            assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
            assert service["healthcheck"]["test"], name


def test_no_secret_is_in_an_environment(tmp_path: Path) -> None:
    for name, service in services(CPU, tmp_path).items():
        for key, value in (service.get("environment") or {}).items():
            if value is not None and re.search("KEY|SECRET|PASSWORD", key):
                assert key.endswith("_FILE") and value.startswith("/run/secrets/"), f"{name}: {key}"


def test_settings_of_the_service_are_settings(tmp_path: Path) -> None:
    for files in (CPU, GPU):
        given = [key for key in services(files, tmp_path)["server"]["environment"] if key.startswith(PREFIX)]
        assert [key for key in given if key.removeprefix(PREFIX).lower() not in Settings.model_fields] == []


def test_settings_come_from_env(tmp_path: Path) -> None:
    environment = services(CPU, tmp_path, "FOURFOLD_MAX_STREAMS=3\n")["server"]["environment"]
    assert (environment["FOURFOLD_MAX_STREAMS"], environment["FOURFOLD_MAX_RELAYS"]) == ("3", None)
    known = {name for name in Settings.model_fields if PREFIX + name.upper() in environment}
    assert Settings.model_fields.keys() - known == FIXED, "docker-compose.yml lists the settings that .env may give"


def test_the_gpu_file_adds_a_card_and_tensorrt(tmp_path: Path) -> None:
    service = services(GPU, tmp_path)["server"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["build"]["args"] == {"EXTRAS": "[gpu]"}
    assert "tensorrt" in (REPOSITORY / "pyproject.toml").read_text().split("\ngpu = [")[1].split("]")[0]
    assert "video" in service["environment"]["NVIDIA_DRIVER_CAPABILITIES"]


def test_the_replay_knows_every_key(tmp_path: Path) -> None:
    """`make replay` itself needs root, mirrors and a minute: it is run by hand."""
    code = "import json, sys; from container import check_service; [check_service(*s) for s in json.load(sys.stdin).items()]"
    told = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(services(CPU, tmp_path)),
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "docker" / "replay")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles(dockerfile: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    told = subprocess.run([linter, dockerfile], capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False)
    assert told.stdout + told.stderr == ""
    text = dockerfile.read_text()
    assert re.findall(r"^USER (\S+)", text, re.M)[-1] == "10001:10001"
    assert "\nHEALTHCHECK" in text
    for base in re.findall(r"^FROM (\S+)", text, re.M):
        assert base == "base" or re.fullmatch(r"debian:\d+\.\d+-slim", base)


def test_what_the_image_installs_fits_what_the_package_asks_for() -> None:
    asked = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (REPOSITORY / "docker" / "requirements.txt").read_text().splitlines()
    pinned = {_plain(name): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[_plain(requirement.name)]), f"{requirement}: run make requirements"


def _plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()
