"""`python docker/replay`: proves the images and the compose file where there is no container engine.

The steps of the Dockerfiles are played in fresh roots (`image`), then their entrypoints are started as docker-compose.yml says
(`container`) and asked (`checks`). All of it happens in namespaces of its own: when they end, however they end, so do all
mounts and processes, and nothing listens on this machine's own addresses.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checks
import live
import yaml
from container import Container, containers
from context import copy_context
from debian import check_machine
from errors import NotPossibleError, ReplayError
from image import Player
from shell import run

REPOSITORY = Path(__file__).parents[2]
SERVER = "http://127.0.0.1:8000"
RTMP, HLS = "rtmp://127.0.0.1:1935", "http://127.0.0.1:8080"
CLONE_NEWNET = 0x40000000
INSIDE = "--inside"


def main() -> int:
    """Prepares a folder, works on it in new namespaces, and removes it."""
    try:
        check_machine()
    except NotPossibleError as error:
        return _skipped(error)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="fourfold-replay-"))
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = ["setpriv", "--pdeathsig", "KILL", *namespaces, sys.executable, str(Path(__file__).parent), INSIDE, str(work)]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(work, ignore_errors=True)


def inside(work: Path) -> int:
    """The exit code: 0 all is well, 1 something is not."""
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", flush=True)

    try:
        replay(work, say)
    except NotPossibleError as error:
        return _skipped(error)
    except ReplayError as error:
        print(f"replay: FAILED: {error}", file=sys.stderr)
        return 1
    say("all is well")
    return 0


def replay(work: Path, say: Callable[[str], None]) -> None:
    """Raises: ReplayError: at the first thing that is not as it should be."""
    _check_overlay(work)
    compose = _compose(work)
    player = Player(_context(work), work, say)
    images = {
        name: player.play(_dockerfile(service), {}) for name, service in compose["services"].items() if "build" in service
    }
    if ctypes.CDLL(None).unshare(CLONE_NEWNET):
        raise NotPossibleError("this machine lets nobody make a network namespace")
    run(["ip", "link", "set", "lo", "up"])
    made = containers(compose, images, player, work)
    _check_server(made["server"], made["rtmp"], work, say)


def _check_server(server: Container, rtmp: Container, work: Path, say: Callable[[str], None]) -> None:
    log, key = work / "server.log", (work / "secrets" / "admin_key").read_text().strip()
    checks.refuses_to_start(server, log, "FOURFOLD_API_KEYS_FILE", FOURFOLD_API_KEYS_FILE=None)
    say("server: without keys it does not start, and says so")
    process = server.start(log)
    checks.healthy(server, process, log)
    say("server: healthy")
    checks.refuses_without_key(SERVER)
    checks.becomes_ready(SERVER, key)
    checks.upscales_a_picture(SERVER, key)
    say("server: upscales a picture for who has a key, and answers 401 to others")
    say(f"server: {checks.locked_in(server, process)} processes, all of user {server.user}, without capabilities")
    checks.read_only(server)
    _check_rtmp(rtmp, work, say)
    checks.logs_json(log)
    checks.stops(server)
    say("server: writes only where it may, logs JSON, and ends on SIGTERM")


def _check_rtmp(rtmp: Container, work: Path, say: Callable[[str], None]) -> None:
    """While the service runs, which its hooks ask."""
    log = work / "rtmp.log"
    checks.refuses_to_start(rtmp, log, "HOOK_SECRET_FILE", HOOK_SECRET_FILE="/run/secrets/none")
    say("rtmp: without its secret it does not start, and says so")
    process = rtmp.start(log, SERVICE_URL=SERVER)  # there is no name server here, whom nginx would ask for the service
    checks.healthy(rtmp, process, log)
    checks.status(f"{HLS}/stat", 200)
    checks.status(f"{HLS}/hls/nobody.m3u8", 404)
    checks.read_only(rtmp)
    say(f"rtmp: healthy; {checks.locked_in(rtmp, process)} processes, all of user {rtmp.user}, without capabilities")
    if live.can_publish():
        live.refused_without_key(RTMP)
        live.upscaled(RTMP, HLS, (work / "secrets" / "publish_key").read_text().strip())
        say("rtmp: a stream with a key comes out upscaled, as HLS; others are refused")
    else:
        say("rtmp: nothing was published, for there is no ffmpeg here")
    checks.stops(rtmp)


def _check_overlay(work: Path) -> None:
    """Raises: NotPossibleError: folders cannot be laid over each other there."""
    lower, upper, scratch, root = (work / "overlay" / name for name in ("lower", "upper", "scratch", "root"))
    for folder in (lower, upper, scratch, root):
        folder.mkdir(parents=True)
    try:
        run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={scratch}", root])
    except ReplayError as error:
        raise NotPossibleError(f"overlays cannot be mounted in {work}; TMPDIR names another place ({error})") from error
    run(["umount", root])


def _context(work: Path) -> Path:
    context = work / "context"
    copy_context(REPOSITORY, context)
    return context


def _dockerfile(service: dict[str, Any]) -> Path:
    return REPOSITORY / str(service["build"]["dockerfile"])


def _skipped(error: NotPossibleError) -> int:
    """Nothing was proved, and nothing is wrong."""
    print(f"replay: SKIPPED: {error}", file=sys.stderr)
    return 0


def _compose(work: Path) -> dict[str, Any]:
    """The compose file as docker-compose understands it, with secrets made for this run."""
    environment = os.environ | {"FOURFOLD_SECRETS": str(work / "secrets"), "FOURFOLD": f"{sys.executable} -m server.cli"}
    run([REPOSITORY / "docker" / "make-secrets.sh"], environment)
    told = run(["docker-compose", "--file", REPOSITORY / "docker-compose.yml", "config"], environment)
    understood: dict[str, Any] = yaml.safe_load(told)
    return understood


if __name__ == "__main__":
    sys.exit(inside(Path(sys.argv[2])) if sys.argv[1:2] == [INSIDE] else main())
