"""Runs a compose service as an engine would: its user by number, no capabilities, no new privileges, its files read-only.

Not replayed: limits on memory and CPUs, seccomp's list of system calls, and the network, which all containers share here.
"""

import json
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import ReplayError
from image import Image, Player

UNDERSTOOD = {"command", "environment", "read_only", "secrets", "tmpfs", "ulimits", "user", "volumes"}
CHECKED = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "read_only": True}
LEFT_OUT = {"build", "depends_on", "healthcheck", "image", "init", "logging", "mem_limit", "pids_limit", "ports", "restart"}
LEFT_OUT |= {"stop_grace_period"}

DEVICES = ("null", "zero", "full", "random", "urandom")

PREPARED = """
mount -t proc proc "$ROOT/proc"
mount -t sysfs -o ro sysfs "$ROOT/sys"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
for device in $DEVICES; do touch "$ROOT/dev/$device"; mount --bind "/dev/$device" "$ROOT/dev/$device"; done
ln -s /proc/self/fd "$ROOT/dev/fd"; ln -s /proc/self/fd/1 "$ROOT/dev/stdout"; ln -s /proc/self/fd/2 "$ROOT/dev/stderr"
mkdir "$ROOT/dev/shm"; mount -t tmpfs -o size=64m,mode=1777 tmpfs "$ROOT/dev/shm"
echo "127.0.0.1 localhost $NAMES" > "$ROOT/etc/hosts"
eval "$MOUNTS"
mount -o remount,bind,ro "$ROOT" 2>/dev/null || { mount --bind "$ROOT" "$ROOT"; mount -o remount,bind,ro "$ROOT"; }
exec chroot "$ROOT" setpriv --reuid="${OWNER%:*}" --regid="${OWNER#*:}" --clear-groups \
    --inh-caps=-all --ambient-caps=-all --bounding-set=-all --no-new-privs \
    env --ignore-environment --chdir="$FOLDER" "$@"
"""


@dataclass
class Container:
    """One service of the compose file, in the files of its image."""

    name: str
    image: Image
    service: dict[str, Any]
    root: Path
    outside: Path  # folders of its named volumes
    secrets: dict[str, str]  # the compose file's: name -> file
    neighbours: Sequence[str]  # names of all services
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def user(self) -> str:
        return str(self.service.get("user") or self.image.user)

    @property
    def environment(self) -> dict[str, str]:
        given = self.service.get("environment") or {}
        own = {key: str(value) for key, value in given.items() if value is not None}  # None: .env says nothing of it
        return self.image.environment | own

    def start(self, log: Path, arguments: Sequence[str] | None = None, **environment: str | None) -> subprocess.Popen[str]:
        """Starts its entrypoint.

        Args:
            log: takes what it says.
            arguments: in the place of the command.
            environment: variables beside its own, or None for one that it is not to have.
        """
        command = [*self.image.entrypoint, *(arguments or self.service.get("command") or self.image.command)]
        with log.open("w") as file:
            process = subprocess.Popen(self._contained(command, environment), stdout=file, stderr=subprocess.STDOUT, text=True)
        self.processes.append(process)
        return process

    def execute(self, command: Sequence[str], **environment: str | None) -> subprocess.CompletedProcess[str]:
        """Runs a command as the service would, to its end."""
        return subprocess.run(self._contained(command, environment), capture_output=True, text=True, timeout=120, check=False)

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM to its first process, as an engine stops it; the exit code."""
        launcher = self.processes[-1]
        first = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        subprocess.run(["kill", "-TERM", *first], check=True)
        return launcher.wait(timeout)

    def _contained(self, command: Sequence[str], environment: dict[str, str | None]) -> list[str]:
        variables = self.environment | environment
        limits = (self.service.get("ulimits") or {}).get("nofile", 1024)
        files = min(int(limits), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        given = {
            "ROOT": self.root,
            "DEVICES": " ".join(DEVICES),
            "NAMES": " ".join(self.neighbours),
            "MOUNTS": "\n".join(self._mounts()),
            "OWNER": self.user,
            "FOLDER": self.image.folder,
        }
        inside = [f"{name}={value}" for name, value in variables.items() if value is not None]
        outside = [f"{name}={value}" for name, value in given.items()]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "prlimit", f"--nofile={files}"]
        return [*namespaces, "env", *outside, "bash", "-euc", PREPARED, self.name, *inside, *command]

    def _mounts(self) -> list[str]:
        """Shell commands that mount volumes, secrets and tmpfs."""
        lines = []
        for path in self.image.volumes:
            if not any(volume.split(":")[1] == path for volume in self.service.get("volumes") or []):
                raise ReplayError(f"{self.name}: the compose file mounts nothing at the image's volume {path}")
        for volume in self.service.get("volumes") or []:
            source, target, mode = (*volume.split(":"), "rw")[:3]
            lines += self._bound(source if source.startswith("/") else self._named(source, target), target, mode)
        for secret in self.service.get("secrets") or []:
            name = secret["source"]
            lines += self._bound(self.secrets[name], f"/run/secrets/{secret.get('target') or name}", "ro")
        for tmpfs in self.service.get("tmpfs") or []:
            target, _, options = tmpfs.partition(":")
            lines += [
                f"mkdir -p '{self.root}{target}'",
                f"mount -t tmpfs -o '{options or 'mode=1777'}' tmpfs '{self.root}{target}'",
            ]
        return lines

    def _bound(self, source: str, target: str, mode: str) -> list[str]:
        place = f"{self.root}{target}"
        made = f"mkdir -p '{place}'" if Path(source).is_dir() else f"mkdir -p '{Path(place).parent}'; touch '{place}'"
        return [made, f"mount --bind '{source}' '{place}'", *([f"mount -o remount,bind,ro '{place}'"] if mode == "ro" else [])]

    def _named(self, name: str, target: str) -> str:
        """A new volume belongs to whom the image's folder belongs to."""
        folder = self.outside / name
        if not folder.exists():
            folder.mkdir(parents=True)
            there = self.root / target.lstrip("/")
            if there.exists():
                owner = there.stat()
                subprocess.run(["chown", f"{owner.st_uid}:{owner.st_gid}", folder], check=True)
        return str(folder)


def check_service(name: str, service: dict[str, Any]) -> None:
    """Raises: ReplayError: it is not contained as all of ours are, or has a key that nobody here looked at."""
    for key, value in CHECKED.items():
        if service.get(key) != value:
            raise ReplayError(f"{name}: {key} has to be {json.dumps(value)}, not {json.dumps(service.get(key))}")
    if unknown := service.keys() - UNDERSTOOD - LEFT_OUT - CHECKED.keys():
        raise ReplayError(f"{name}: {', '.join(sorted(unknown))}: not known here")


def containers(compose: dict[str, Any], images: dict[str, Image], player: Player, work: Path) -> dict[str, Container]:
    """The services whose images were played, ready to be started."""
    secrets = {name: secret["file"] for name, secret in compose["secrets"].items()}
    made = {}
    for name, image in images.items():
        service = compose["services"][name]
        check_service(name, service)
        root, volumes = player.container(image), work / "volumes"
        made[name] = Container(name, image, service, root, volumes, secrets, list(compose["services"]))
    return made
