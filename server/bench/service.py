"""What pictures, sessions and streams cost through HTTP and WebSocket, and whether memory stays flat."""

import io
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from models.errors import FourfoldError
from server.bench.machine import describe
from server.bench.measure import Spread, digits, spread
from server.bench.own_service import OwnService, own_service
from server.streams.protocol import END, HEADER_BYTES, Header, parse_header

PICTURE, FRAME, SMALL = (960, 540), (480, 270), (120, 68)  # input pixels


@dataclass(frozen=True)
class ServiceBench:
    """What to measure.

    Attributes:
        model: of all requests.
        pictures: for latency; each one comes back before the next one goes.
        sessions: opened and closed one after the other.
        idle: sessions that are open all the while streams run, and send nothing.
        streams: at once, for memory and latency.
        fps: of each.
        seconds: of each.
        soak_pictures, soak_sessions: small pictures, and sessions of one frame, before memory is looked at again.
    """

    model: str
    pictures: int
    sessions: int
    idle: int
    streams: int
    fps: float
    seconds: float
    soak_pictures: int
    soak_sessions: int


def bench_service(bench: ServiceBench, say: Callable[[str], None]) -> dict[str, Any]:
    """Starts a service and measures it; what `fourfold bench service --json` prints.

    Raises:
        FourfoldError: the service did not start, or gave something else than frames and pictures.
    """
    about = describe()
    with tempfile.TemporaryDirectory(prefix="fourfold-bench-") as name, own_service(Path(name), bench.model) as service:
        say(f"the service was ready after {service.start_seconds:.1f} s")
        _picture(service)
        idle = service.memory_bytes()
        pictures = [_picture(service) for _ in range(bench.pictures)]
        say("sessions, one after the other")
        sessions = _sessions(service, bench.sessions)
        say(f"{bench.streams} streams at once beside {bench.idle} idle sessions")
        with ExitStack() as stack:
            for _ in range(bench.idle):
                stack.enter_context(_idle(service))
            waiting = service.memory_bytes()
            streams = _streams(service, bench, waiting)
        say("soak")
        soak = _soak(service, bench)
        start = digits(service.start_seconds)
    each = (waiting - idle) // bench.idle if bench.idle else None
    memory = {"idle_bytes": idle, "idle_session_bytes": each, "start_seconds": start}
    settings = {"rounds": 1, **vars(bench)}
    figures = {"pictures_ms": percentiles(pictures), "sessions": sessions, "streams": streams, "soak": soak}
    return {"kind": "service", **about, "settings": settings, **memory, **figures}


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest one."""
    values = np.percentile(milliseconds, [50, 95, 99, 100])
    return {name: digits(float(value)) for name, value in zip(("p50", "p95", "p99", "max"), values, strict=True)}


def _noise(size: tuple[int, int], seed: int = 0) -> bytes:
    """A picture with some detail, as JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _picture(service: OwnService, size: tuple[int, int] = PICTURE) -> float:
    """Milliseconds that a picture takes to come back as JPEG."""
    connection = HTTPConnection("127.0.0.1", service.port, timeout=60)
    picture, started = _noise(size), time.perf_counter()
    connection.request("POST", "/v1/images", picture, {"Content-Type": "image/jpeg", "Accept": "image/jpeg"})
    answer = connection.getresponse()
    body, took = answer.read(), 1000 * (time.perf_counter() - started)
    connection.close()
    if answer.status != 200:
        raise FourfoldError(f"a picture was answered with {answer.status}: {body[:200].decode(errors='replace')}")
    return took


def _sessions(service: OwnService, count: int) -> dict[str, Any]:
    """What a session costs before its first frame: from connecting to ready, and the processors' time for all of it."""
    waits, before = [], service.cpu_seconds()
    for _ in range(count):
        started = time.perf_counter()
        with _session(service):
            waits.append(1000 * (time.perf_counter() - started))
    return {"ready_ms": spread(waits), "cpu_ms": digits(1000 * (service.cpu_seconds() - before) / count)}


@contextmanager
def _session(service: OwnService, fps: float = 30) -> Iterator[ClientConnection]:
    """A session that is ready for frames."""
    width, height = FRAME
    words = {"format": "jpeg", "width": width, "height": height}
    start = {"type": "start", "scale": 4, "fps": fps, "input": words, "output": {"format": "jpeg"}, "late": "drop"}
    with connect(f"ws://127.0.0.1:{service.port}/v1/stream", max_size=None, compression=None) as socket:
        socket.send(json.dumps(start))
        answer = json.loads(socket.recv(60))
        if answer["type"] != "ready":
            raise FourfoldError(f"a session was answered with {answer}")
        yield socket


@contextmanager
def _idle(service: OwnService) -> Iterator[None]:
    """A session of someone who listens and sends nothing."""
    with _session(service) as socket:
        listening = threading.Thread(target=lambda: [None for _ in socket])
        listening.start()
        yield
        socket.close()
        listening.join()


def _streams(service: OwnService, bench: ServiceBench, before: int) -> dict[str, Any]:
    """So many streams at once, at a steady pace: latencies as the client sees them, drops, memory of each."""
    clients = [_Client(service, bench, number) for number in range(bench.streams)]
    for client in clients:
        client.start()
    time.sleep(bench.seconds / 2)
    memory = service.memory_bytes()
    for client in clients:
        client.join()
    latencies = [latency for client in clients for latency in client.latencies_ms]
    sent = sum(client.sent for client in clients)
    return {
        "count": bench.streams,
        "fps": bench.fps,
        "sent": sent,
        "answered": len(latencies),
        "dropped": sum(client.dropped for client in clients),
        "latency_ms": percentiles(latencies or [0.0]),
        "bytes_each": (memory - before) // bench.streams,
    }


class _Client(threading.Thread):
    """One stream: sends at its pace, and notes when each answer came."""

    def __init__(self, service: OwnService, bench: ServiceBench, number: int) -> None:
        super().__init__()
        self._service, self._frame = service, _noise(FRAME, number)
        self._fps, self._count = bench.fps, round(bench.fps * bench.seconds)
        self._sent_at: dict[int, float] = {}
        self.sent = self.dropped = 0
        self.latencies_ms: list[float] = []

    def run(self) -> None:
        with _session(self._service, self._fps) as socket:
            reader = threading.Thread(target=self._read, args=(socket,))
            reader.start()
            started = time.perf_counter()
            for sequence in range(self._count):
                time.sleep(max(0.0, started + sequence / self._fps - time.perf_counter()))
                self._sent_at[sequence] = time.perf_counter()
                socket.send(Header(sequence, pts_us=round(1e6 * sequence / self._fps)).pack() + self._frame)
                self.sent += 1
            socket.send(Header(self._count, END).pack())
            reader.join()

    def _read(self, socket: ClientConnection) -> None:
        for message in socket:
            if isinstance(message, str):
                words = json.loads(message)
                self.dropped += len(words["sequence"]) if words["type"] == "dropped" else 0
            elif len(message) > HEADER_BYTES:
                sent_at = self._sent_at[parse_header(message).sequence]
                self.latencies_ms.append(1000 * (time.perf_counter() - sent_at))


def _soak(service: OwnService, bench: ServiceBench) -> dict[str, Any]:
    """Memory and descriptors after a quarter of the work, when caches are full, and after all of it."""
    figures: list[dict[str, int]] = []
    for share in (0.25, 0.75):
        for _ in range(round(share * bench.soak_pictures)):
            _picture(service, SMALL)
        for _ in range(round(share * bench.soak_sessions)):
            with _session(service) as socket:
                socket.send(Header(0).pack() + _noise(FRAME))
                socket.recv(60)
        time.sleep(2)  # until what has ended is gone
        figures.append({"bytes": service.memory_bytes(), "descriptors": service.descriptors()})
    return {"after_a_quarter": figures[0], "after_all": figures[1], "processes": len(service.processes())}


def summary(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures in words."""
    sessions, streams, soak, settings = (result[name] for name in ("sessions", "streams", "soak", "settings"))
    ready: Spread = sessions["ready_ms"]
    first, last, each = soak["after_a_quarter"], soak["after_all"], result["idle_session_bytes"]
    return [
        ("ready after", f"{result['start_seconds']:.1f} s"),
        ("memory, idle, all processes (PSS)", _mib(result["idle_bytes"])),
        ("picture, 960x540 JPEG to 3840x2160 JPEG", _milliseconds(result["pictures_ms"])),
        ("session, from connecting to ready", f"{ready['median']:.3g} ms ({ready['min']:.3g} to {ready['max']:.3g})"),
        ("session, processor time in all", f"{sessions['cpu_ms']:.3g} ms"),
        (f"{streams['count']} streams of 480x270 JPEG at {streams['fps']:g} frames/s", _milliseconds(streams["latency_ms"])),
        ("frames of these sent / answered / dropped", f"{streams['sent']} / {streams['answered']} / {streams['dropped']}"),
        ("memory for each of these streams", _mib(streams["bytes_each"])),
        *([(f"memory for each of {settings['idle']} idle sessions beside them", _mib(each))] if each else []),
        (
            f"memory after {settings['soak_pictures']} small pictures and {settings['soak_sessions']} sessions of a frame",
            f"{_mib(last['bytes'])}, after a quarter of them {_mib(first['bytes'])}",
        ),
        ("descriptors then", f"{last['descriptors']}, after a quarter {first['descriptors']}"),
    ]


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _milliseconds(figures: dict[str, float]) -> str:
    return f"p50 {figures['p50']:.3g} ms, p95 {figures['p95']:.3g} ms, p99 {figures['p99']:.3g} ms"
