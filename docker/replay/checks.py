"""What is asked of the running containers: health, work, refusals, and how far they are locked in."""

import io
import json
import time
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from container import Container
from errors import ReplayError
from PIL import Image

PATIENCE_SECONDS = 180


def healthy(container: Container, process: "Popen[str]", log: Path) -> None:
    """Waits for its own health check to agree.

    Raises:
        ReplayError: it ended, or was never healthy; the message has its log.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if container.execute(container.image.healthcheck).returncode == 0:
            return
        time.sleep(0.5)
    said = "\n".join(log.read_text().splitlines()[-25:])
    raise ReplayError(f"{container.name} is not healthy (exit code {process.poll()}):\n{said}")


def locked_in(container: Container, process: "Popen[str]") -> int:
    """How many processes it has, each of which has its number for a user, no capability, and no way to get one.

    Raises:
        ReplayError: one of them has more.
    """
    found = _descendants(process.pid)
    for pid in found:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        user = container.user.split(":")[0]
        sets = {status[name].strip("0 ") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        if set(status["Uid"].split()) != {user} or user == "0" or sets != {""} or status["NoNewPrivs"] != "1":
            raise ReplayError(f"{container.name}: process {pid} ({status['Name']}) runs with more than it should: {status}")
    return len(found)


def read_only(container: Container) -> None:
    """Raises: ReplayError: a file can be made where none should be, or cannot be where one should."""
    for folder in ("/", "/etc", "/opt", "/usr/bin", "/var/lib"):
        if container.execute(["touch", f"{folder}/canary"]).returncode == 0:
            raise ReplayError(f"{container.name} can write to {folder}")
    written = [str(tmpfs).partition(":")[0] for tmpfs in container.service.get("tmpfs") or []]
    for folder in (*written, *container.image.volumes):
        if said := container.execute(["touch", f"{folder}/canary"]).stderr:
            raise ReplayError(f"{container.name} cannot write to {folder}: {said}")


def refuses_to_start(container: Container, log: Path, names: str, **environment: str | None) -> None:
    """Raises: ReplayError: it started, or did not say `names`."""
    code = container.start(log, **environment).wait(PATIENCE_SECONDS)
    container.processes.pop()
    if code != 1 or names not in log.read_text():
        raise ReplayError(f"{container.name} was to end with 1 and name {names}; it ended with {code}: {log.read_text()}")


def becomes_ready(url: str, key: str) -> None:
    """Raises: ReplayError: the engine did not answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (status := status_of(f"{url}/health/ready", key)) != 200:
        if time.monotonic() > deadline:
            raise ReplayError(f"/health/ready answers {status}")
        time.sleep(0.5)


def upscales_a_picture(url: str, key: str) -> None:
    """Raises: ReplayError: what comes back is not four times larger."""
    body = io.BytesIO()
    Image.linear_gradient("L").resize((48, 32)).convert("RGB").save(body, "PNG")
    with urlopen(_request(f"{url}/v1/images?scale=4", key, body.getvalue()), timeout=PATIENCE_SECONDS) as answer:
        size = Image.open(io.BytesIO(answer.read())).size
    if size != (192, 128):
        raise ReplayError(f"a picture of 48x32 came back as {size}")


def refuses_without_key(url: str) -> None:
    """Raises: ReplayError: someone without a key, or with a wrong one, is served."""
    for key in ("", "ff_wrongwrongwrong"):
        for path in ("/v1/models", "/metrics", "/health/ready"):
            if (status := status_of(url + path, key)) != 401:
                raise ReplayError(f"{path} answers {status} to the key {key!r}")


def status(url: str, wanted: int) -> None:
    """Raises: ReplayError: the answer has another one."""
    if (found := status_of(url, "")) != wanted:
        raise ReplayError(f"{url} answers {found}, not {wanted}")


def status_of(url: str, key: str) -> int | str:
    """Of the answer; in words where there is none."""
    try:
        with urlopen(_request(url, key), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (URLError, OSError) as error:
        return str(error)


def logs_json(log: Path) -> None:
    """Raises: ReplayError: a line of the log is no JSON object."""
    for line in log.read_text().splitlines():
        try:
            entry: Any = json.loads(line)
        except ValueError as error:
            raise ReplayError(f"a line of {log.name} is no JSON: {line}") from error
        if not {"time", "level", "message"} <= entry.keys():
            raise ReplayError(f"a line of {log.name} lacks time, level or message: {line}")


def stops(container: Container) -> None:
    """Raises: ReplayError: it does not end cleanly on SIGTERM."""
    if code := container.stop():
        raise ReplayError(f"{container.name} ended with {code} on SIGTERM")


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    left = [pid]
    while left:
        for children in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            found += (new := [int(child) for child in children.read_text().split()])
            left += new
    return found


def _request(url: str, key: str, body: bytes | None = None) -> Request:
    headers = {"Content-Type": "image/png"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return Request(url, body, headers)
