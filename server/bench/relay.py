"""How much later, and how completely, a live stream comes out of the service than out of the RTMP server alone.

Each picture carries its number and the time when it was made (`server.bench.burn`). One player decodes the stream as it was
published, straight from the RTMP server: the reference; another one what the service made of it, at the same time. The added
latency is the difference for each picture that both got, the time to decode the larger one included.
"""

import json
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from models.errors import FourfoldError
from server.bench.live_clip import BIT_RATE, HEIGHT, OPEN_SECONDS, RATE, WIDTH
from server.bench.machine import describe
from server.bench.own_service import OwnService, own_service
from server.bench.relay_figures import round_figures
from server.rtmp_server import RtmpServer, free_port

SETTLE_SECONDS = 2.0  # after the last player shows its first picture: what came in a heap is over
DRAIN_SECONDS = 5.0  # after the last picture that counts: it may still be under way
SAMPLES = 12  # of the memory in a round

Watch = Callable[[], dict[str, Any]]
"""What the relaying service says of itself, and takes, now."""


@dataclass(frozen=True)
class RelayBench:
    """What to measure.

    Attributes:
        model: of the relays.
        streams: at once.
        minutes: of a round.
        rounds: one after the other, each with publishers, players and relays of its own.
    """

    model: str
    streams: int
    minutes: float
    rounds: int


def bench_relay(bench: RelayBench, say: Callable[[str], None]) -> dict[str, Any]:
    """Starts an RTMP server and a service and measures; what `fourfold bench relay --json` prints.

    Raises:
        FourfoldError: a server did not start, or a stream did not come through.
    """
    about = describe()
    with tempfile.TemporaryDirectory(prefix="fourfold-bench-") as name, _servers(Path(name), bench.model) as (rtmp, service):
        say(f"the service was ready after {service.start_seconds:.1f} s")
        rounds = []
        for number in range(1, bench.rounds + 1):
            say(f"round {number} of {bench.rounds}: {bench.streams} streams for {bench.minutes:g} min")
            names = [f"bench-{number}-{i}" for i in range(1, bench.streams + 1)]
            rounds.append(measure(rtmp.rtmp_url, names, 60 * bench.minutes, lambda: _watch(service)))
    stream = f"{WIDTH}x{HEIGHT} H.264 at {RATE} frames/s, {BIT_RATE // 1000} kbit/s, AAC"
    return {"kind": "relay", **about, "settings": vars(bench) | {"input": stream}, "rounds": rounds}


@contextmanager
def _servers(folder: Path, model: str) -> Iterator[tuple[RtmpServer, OwnService]]:
    secret, port = secrets.token_urlsafe(24), free_port()
    file = folder / "hook-secret"
    file.write_text(secret)
    rtmp = RtmpServer(folder / "nginx", f"http://127.0.0.1:{port}", secret)
    try:
        rtmp.start()
        with own_service(folder, model, port=port, rtmp_server=rtmp.rtmp_url, hook_secret_file=file) as service:
            yield rtmp, service
    finally:
        rtmp.stop()


def _watch(service: OwnService) -> dict[str, Any]:
    with closing(HTTPConnection("127.0.0.1", service.port, timeout=10)) as connection:
        connection.request("GET", "/v1/relays")
        relays = json.loads(connection.getresponse().read())["relays"]
    said = {relay["source"].rpartition("/")[2]: relay for relay in relays}
    return {"bytes": service.memory_bytes(), "cpu_seconds": service.cpu_seconds(), "relays": said}


def measure(rtmp_url: str, names: list[str], seconds: float, watch: Watch) -> dict[str, Any]:
    """One round: publishes to live/NAME, plays that and upscaled/NAME, and compares.

    Args:
        rtmp_url: of an RTMP server on which somebody relays `live` to `upscaled`.
        names: of the streams.
        seconds: in which pictures count.
        watch: called some times meanwhile.

    Raises:
        FourfoldError: a publisher or a player ended by itself, or showed nothing; the message says which and why.
    """
    with ExitStack() as stack:
        publishers = [stack.enter_context(_End("publish", f"{rtmp_url}/live/{name}")) for name in names]
        references = [stack.enter_context(_End("play", f"{rtmp_url}/live/{name}")) for name in names]
        players = [stack.enter_context(_End("play", f"{rtmp_url}/upscaled/{name}")) for name in names]
        for player in (*references, *players):
            player.wait_for_picture(publishers)
        time.sleep(SETTLE_SECONDS)
        begin, samples = time.monotonic(), [watch()]
        for number in range(1, SAMPLES + 1):
            time.sleep(max(0.0, begin + number * seconds / SAMPLES - time.monotonic()))
            samples.append(watch())
        end = time.monotonic()
        time.sleep(DRAIN_SECONDS)
        # Players first: they are to see no stream that ends.
        seen, plain = ([end.result() for end in ends] for ends in (players, references))
        sent = [publisher.result() for publisher in publishers]
    return round_figures(names, sent, plain, seen, (begin, end), samples)


class _End:
    """A publisher or a player: `server.bench.live_clip` in a process of its own."""

    def __init__(self, role: str, url: str) -> None:
        self._what = f"{role} {url}"
        command = [sys.executable, "-m", "server.bench.live_clip", role, url]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own arguments
        self._plays, self._last = threading.Event(), ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for_picture(self, publishers: "list[_End]") -> None:
        """Raises: FourfoldError: it or a publisher ended, or none came."""
        deadline = time.monotonic() + OPEN_SECONDS
        while not self._plays.wait(0.1):
            for end in publishers:
                end.check()
            if time.monotonic() > deadline:
                raise FourfoldError(f"no picture came within {OPEN_SECONDS:.0f} s: {self._what}")
        self.check()

    def check(self) -> None:
        """Raises: FourfoldError: it ended by itself."""
        if self._last or not self._reader.is_alive():
            raise FourfoldError(f"a stream broke off, or was refused: {self._what} ({self._error() or 'it ended'})")

    def result(self) -> dict[str, Any]:
        """Ends it and gives what it noted. Raises: FourfoldError: it had ended by itself."""
        self._process.terminate()
        self._reader.join(60)
        if self._error() or not self._last:
            raise FourfoldError(f"a stream broke off, or was refused: {self._what} ({self._error() or 'it said nothing'})")
        result: dict[str, Any] = json.loads(self._last)
        return result

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._last = line if line.startswith("{") else ""
            self._plays.set()
        self._plays.set()

    def _error(self) -> str | None:
        return json.loads(self._last)["error"] if self._last else None

    def __enter__(self) -> "_End":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()
