"""A real Prometheus with the repository's configuration and rules, but quick: it looks at one service once a second."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from server.rtmp_server import free_port

FOLDER = Path(__file__).parents[2] / "docker" / "prometheus"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Sample:
    """What a query gives for one set of labels."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Prometheus:
    """One that answers."""

    url: str

    def query(self, expression: str) -> list[Sample]:
        """What PromQL gives now."""
        found = self._ask("query", query=expression)["result"]
        return [Sample(one["metric"], float(one["value"][1])) for one in found]

    def rules(self) -> list[dict[str, Any]]:
        """Every alert: name, state (inactive, pending, firing), health."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, what: str, **words: str) -> dict[str, Any]:
        with urlopen(f"{self.url}/api/v1/{what}?{urlencode(words)}", timeout=30) as answer:
            return dict(json.load(answer)["data"])


@contextmanager
def running_prometheus(folder: Path, target: str, key: str) -> Iterator[Prometheus]:
    """Starts it, and ends it with all that it stored.

    Args:
        folder: an empty one.
        target: host and port of the service.
        key: for its metrics.
    """
    (folder / "key").write_text(key)
    configuration = (FOLDER / "prometheus.yml").read_text()
    for there, here in (
        ("/run/secrets/metrics_key", str(folder / "key")),
        ("server:8000", target),
        ("scrape_interval: 5s", "scrape_interval: 1s"),
        ("evaluation_interval: 5s", "evaluation_interval: 1s"),
        ("scrape_timeout: 4s", "scrape_timeout: 1s"),
    ):
        assert there in configuration
        configuration = configuration.replace(there, here)
    (folder / "prometheus.yml").write_text(configuration)
    shutil.copy(FOLDER / "alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    options = [
        f"--web.listen-address={address}",
        f"--storage.tsdb.path={folder / 'series'}",
        "--storage.tsdb.retention.time=1h",
    ]
    log = (folder / "log").open("w")
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", *options, "--log.level=warn"]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        prometheus = Prometheus(f"http://{address}")
        _wait(prometheus, process, folder / "log")
        yield prometheus
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{prometheus.url}/-/ready", timeout=5):
                return
        except (URLError, OSError):  # not yet
            time.sleep(0.1)
    raise AssertionError(f"Prometheus did not start:\n{log.read_text()[-2000:]}")
