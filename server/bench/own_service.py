"""A service of the benchmark's own, in a folder of its own, and what its processes take."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from models.errors import FourfoldError

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
START_SECONDS = 120.0


@dataclass(frozen=True)
class OwnService:
    """A running service.

    Attributes:
        pid: of its first process.
        port: on 127.0.0.1.
        start_seconds: until it was ready.
    """

    pid: int
    port: int
    start_seconds: float

    def memory_bytes(self) -> int:
        """What all its processes take, shared pages counted once (PSS)."""
        return 1024 * sum(_kilobytes(pid) for pid in self.processes())

    def processes(self) -> list[int]:
        """Its first process, and all that came from it."""
        found, left = [self.pid], [self.pid]
        while left:
            for children in Path(f"/proc/{left.pop()}/task").glob("*/children"):
                with suppress(OSError):  # it ended meanwhile
                    new = [int(child) for child in children.read_text().split()]
                    found, left = found + new, left + new
        return found

    def cpu_seconds(self) -> float:
        """Processor time of all its processes, and of those that have ended."""
        return sum(map(_cpu_seconds, self.processes()))

    def descriptors(self) -> int:
        """Files and sockets that its first process has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@contextmanager
def own_service(folder: Path, model: str, **settings: object) -> Iterator[OwnService]:
    """Starts a service and ends it afterwards.

    Args:
        folder: of its data and its log.
        model: of requests that name none.
        settings: FOURFOLD_… variables by the names of `server.settings.Settings`; without a port it takes a free one.

    Raises:
        FourfoldError: it did not become ready; the message has its last line.
    """
    log, started = folder / "service.log", time.perf_counter()
    chosen = {"port": 0, "data_folder": folder, "model": model, **settings}
    ours = {f"FOURFOLD_{name.upper()}": str(value) for name, value in chosen.items()}
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "server.cli", "serve"], env=os.environ | ours, stderr=file)
    try:
        port = _ready(process, log)
        yield OwnService(process.pid, port, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait()


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """The port, once the service answers that it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = ADDRESS.search(log.read_text())
        with suppress(OSError):
            if found and status(int(found[1]), "/health/ready") == 200:
                return int(found[1])
        time.sleep(0.02)
    last = (log.read_text().strip() or "it said nothing").splitlines()[-1]
    raise FourfoldError(f"the service did not become ready: {last}")


def status(port: int, path: str) -> int:
    """The status of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _kilobytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own, and its children's that have ended
    return 0.0
