"""Plays a Dockerfile: each stage is an overlay on the one it comes from, each RUN a command in a chroot.

It knows the instructions that our Dockerfiles use, and refuses others. The network is this machine's.
"""

import io
import json
import shlex
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from debian import make_base, registry_access
from dockerfile_parse import DockerfileParser
from errors import ReplayError
from shell import bash, run

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What engines give to images that say nothing else."""

STEP = """
mount --bind /dev "$ROOT/dev"
mount -t proc proc "$ROOT/proc"
cp --dereference /etc/resolv.conf "$ROOT/etc/resolv.conf"
exec chroot "$ROOT" env --ignore-environment --chdir="$FOLDER" "${@}"
"""


@dataclass
class Image:
    """A stage, and what it says of containers made from it."""

    layers: list[Path]  # folders, the newest first
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)  # ARG: seen by RUN only
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)


class Player:
    """Plays Dockerfiles into a folder; bases are made once."""

    def __init__(self, context: Path, work: Path, say: Callable[[str], None]) -> None:
        self._context, self._work, self._say = context, work, say
        self._stages = 0

    def play(self, dockerfile: Path, arguments: dict[str, str]) -> Image:
        """The image of the last stage.

        Args:
            dockerfile: to be played.
            arguments: build arguments.

        Raises:
            ReplayError: a step failed, or is of a kind that is not known here.
        """
        stages: dict[str, Image] = {}
        image, root = Image([]), Path()
        for instruction, value in _instructions(dockerfile):
            self._say(f"{dockerfile.name}: {instruction} {value[:90]}")
            if instruction == "FROM":
                source, _, name = value.partition(" AS ")
                image = self._stage(stages.get(source) or self._base(source))
                stages[name or str(len(stages))] = image
                root = self.mounted(image)
            elif instruction == "RUN":
                _run(image, root, value)
            elif instruction == "COPY":
                self._copy(image, root, value, stages)
            else:
                _note(image, root, instruction, value, arguments)
        return image

    def mounted(self, image: Image) -> Path:
        """The files of an image, as a folder that may be written to: its newest layer takes that."""
        root = image.layers[0].with_name("root")
        if not root.is_mount():
            work = image.layers[0].with_name("work")
            for folder in (root, work):
                folder.mkdir(exist_ok=True)
            options = f"lowerdir={':'.join(map(str, image.layers[1:]))},upperdir={image.layers[0]},workdir={work}"
            run(["mount", "-t", "overlay", "overlay", "-o", options, root])
        return root

    def container(self, image: Image) -> Path:
        """The files of a container: an image below, an empty layer above."""
        return self.mounted(self._stage(image))

    def _stage(self, source: Image) -> Image:
        self._stages += 1
        layer = self._work / f"stage-{self._stages}" / "layer"
        layer.mkdir(parents=True)
        return replace(deepcopy(source), layers=[layer, *source.layers], arguments={})

    def _base(self, name: str) -> Image:
        folder = self._work / name.replace(":", "-")
        if not folder.exists():
            make_base(name, folder)
        return Image([folder], {"PATH": PATH})

    def _copy(self, image: Image, root: Path, value: str, stages: dict[str, Image]) -> None:
        words = shlex.split(value)
        origin = self._context
        if words[0].startswith("--from="):
            origin = self.mounted(stages[words.pop(0).removeprefix("--from=")])
        if any(word.startswith("--") for word in words):
            raise ReplayError(f"COPY {value}: this option is not known here")
        *sources, target = words
        place = root / (target if target.startswith("/") else f"{image.folder}/{target}").lstrip("/")
        for name in sources:
            source = origin / name.lstrip("/")
            if not source.exists():
                raise ReplayError(f"COPY {value}: there is no {name} in the context (.dockerignore?)")
            _place(source, place / source.name if target.endswith("/") and source.is_file() else place)


def _instructions(dockerfile: Path) -> list[tuple[str, str]]:
    parsed: list[dict[str, Any]] = DockerfileParser(fileobj=io.BytesIO(dockerfile.read_bytes())).structure
    return [(step["instruction"], step["value"]) for step in parsed if step["instruction"] != "COMMENT"]


def _run(image: Image, root: Path, script: str) -> None:
    """RUN: as root in the stage, with processes and mounts of its own."""
    with_registry = {**registry_access(root / "run"), **image.arguments, **image.environment}
    variables = [f"{name}={value}" for name, value in with_registry.items()]
    command = ["/bin/sh", "-c", script]
    names = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "env", f"ROOT={root}", f"FOLDER={image.folder}"]
    run([*names, "bash", "-euc", STEP, "step", *variables, "DEBIAN_FRONTEND=noninteractive", *command])
    bash(f"rm -rf '{root}'/run/certificates.crt '{root}'/run/pip.conf")


def _place(source: Path, target: Path) -> None:
    """What COPY does: the content of a folder, or a file; owned by root."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        run(["cp", "--archive", "--no-preserve=ownership", f"{source}/.", target])
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "--archive", "--no-preserve=ownership", source, target])


def _note(image: Image, root: Path, instruction: str, value: str, arguments: dict[str, str]) -> None:
    """Instructions that say something of the image."""
    if instruction == "ENV":
        image.environment.update(_pairs(value))
    elif instruction == "ARG":
        name, default = next(iter(_pairs(value).items()))
        image.arguments[name] = arguments.get(name, default)
    elif instruction == "WORKDIR":
        image.folder = value
        (root / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif instruction == "USER":
        image.user = value
    elif instruction == "VOLUME":
        image.volumes += json.loads(value)
    elif instruction == "HEALTHCHECK":
        image.healthcheck = json.loads(value.partition("CMD ")[2])
    elif instruction == "ENTRYPOINT":
        image.entrypoint = json.loads(value)
    elif instruction == "CMD":
        image.command = json.loads(value)
    elif instruction not in ("EXPOSE", "STOPSIGNAL"):
        raise ReplayError(f"{instruction} is not known here")


def _pairs(value: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in shlex.split(value))
    return {name: text for name, _, text in pairs}
