"""The real service, as a process of its own on a free port of the loopback interface."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from urllib.error import URLError
from urllib.request import Request, urlopen

ADDRESS = re.compile(r"Fourfold serves (?P<scheme>https?)://(?P<host>\S+):(?P<port>\d+) ")
START_SECONDS = 60.0  # the first engine of a run of the suite is compiled and timed


@dataclass
class RunningService:
    """A service that answers."""

    process: subprocess.Popen[str]
    data_folder: Path
    key: str | None = None  # of requests that `headers` are for
    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 0
    log: list[str] = field(default_factory=list)  # lines of stderr

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def pid(self) -> int:
        """Of the api process."""
        return self.process.pid

    def metrics(self) -> dict[str, float]:
        """What `/metrics` says: `name{labels}` -> value."""
        with urlopen(Request(f"{self.url}/metrics", headers=self.headers), timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    def descendants(self) -> list[int]:
        """Process ids of all its children and theirs."""
        found, left = [], [self.pid]
        while left:
            for children in Path(f"/proc/{left.pop()}/task").glob("*/children"):
                with suppress(OSError):  # it ended meanwhile
                    found += (new := [int(child) for child in children.read_text().split()])
                    left += new
        return found

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextmanager
def running_service(
    folder: Path,
    *,
    key: str | None = None,
    ready: bool = True,
    prefix: Sequence[str] = (),
    context: SSLContext | None = None,
    **settings: object,
) -> Iterator[RunningService]:
    """Starts the service, waits until it can work, and stops it afterwards.

    Args:
        folder: a temporary one; the data folder is made in it.
        key: an API key that may do everything there, for the check of readiness and for `headers`.
        ready: wait for the engine too, not only for the api process.
        prefix: a command to run the service's with, such as prlimit.
        context: for a service with TLS, whom to trust.
        settings: FOURFOLD_… variables by the names of `server.settings.Settings`.

    Raises:
        AssertionError: it did not start; the message has its log.
    """
    data = folder / "data"
    given = {"host": "127.0.0.1", "port": 0, "data_folder": data, **settings}
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_") or name == "FOURFOLD_CACHE"
    }
    variables = {f"FOURFOLD_{name.upper()}": _text(value) for name, value in given.items()}
    command = [*prefix, sys.executable, "-m", "server.cli", "serve"]
    process = subprocess.Popen(command, env=inherited | variables, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    service = RunningService(process, data, key)
    reader = threading.Thread(target=_read, args=(service,), daemon=True)
    reader.start()
    try:
        _wait(service, "/health/ready" if ready else "/health/live", context)
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(10)
        assert process.stderr
        process.stderr.close()


def engine_pid(service: RunningService) -> int | None:
    """The engine's process, while there is one."""
    for pid in service.descendants():
        try:
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:  # it ended meanwhile
            continue
    return None


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _read(service: RunningService) -> None:
    assert service.process.stderr
    for line in service.process.stderr:
        service.log.append(line.rstrip("\n"))
        if found := ADDRESS.search(line):
            service.scheme, service.host = found["scheme"], found["host"]
            service.port = int(found["port"])


def _wait(service: RunningService, path: str, context: SSLContext | None) -> None:
    """Until `path` answers 200."""
    last: object = None
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and service.process.poll() is None:
        try:
            if service.port:
                with urlopen(Request(service.url + path, headers=service.headers), timeout=5, context=context):
                    return
        except (URLError, OSError) as error:  # not yet: nobody listens, or 503
            last = error
        time.sleep(0.05)
    text = "\n".join(service.log[-30:])
    raise AssertionError(f"the service did not start ({last}, exit code {service.process.poll()}):\n{text}")
