"""Work of every kind for a service, in threads; and too much of it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from server.media.live_formats import Format
from tests.support import clips
from tests.support.frames import natural
from tests.support.live import encode
from tests.support.pictures import encoded
from tests.support.rtmp import live_clip, publisher
from tests.support.service import RunningService
from tests.support.stream import client

STOP_SECONDS = 60.0
SMALL = (64, 48)  # pixels of what the service does with ease
HEAVY = (160, 96)  # and of what is too much, with a heavy network
CALM_FPS, HEAVY_FPS = 10.0, 30.0
IN_FLIGHT = 8
"""Frames that a client which wants every one of them sends before it has the answer to the first."""

Work = Callable[[RunningService, threading.Event], None]


@dataclass
class Load:
    """Threads that use a service until they are told to stop."""

    service: RunningService
    stop: threading.Event = field(default_factory=threading.Event)
    failures: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, *works: Work) -> None:
        """Begins some more."""
        for work in works:
            thread = threading.Thread(target=self._run, args=(work,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """Stops all of it."""
        self.stop.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)

    def _run(self, work: Work) -> None:
        try:
            work(self.service, self.stop)
        except Exception as error:
            if not self.stop.is_set():
                self.failures.append(f"{work}: {error!r}")


@contextmanager
def load(service: RunningService, *works: Work) -> Iterator[Load]:
    """Runs them while the block does."""
    running = Load(service)
    running.start(*works)
    try:
        yield running
    finally:
        running.end()


def calm_load(folder: Path, rtmp_url: str) -> list[Work]:
    """Something of every kind, and little of it. Args: folder: for clips; rtmp_url: of an RTMP server that asks the service."""
    clip = clips.write(folder / "clip.mp4", width=SMALL[0], height=SMALL[1], frames=30)
    calm = partial(stream, model="xlsr", size=SMALL, kind="rgb24", late="drop", fps=CALM_FPS)
    published = live_clip(folder / "live.mp4", width=SMALL[0], height=SMALL[1], rate=10)
    return [calm, pictures, refusals, partial(videos, clip=clip), partial(relay, clip=published, url=f"{rtmp_url}/live/show")]


def overload() -> list[Work]:
    """A heavy network for more frames than it can take: two streams that wait for each frame, one that drops what is late."""
    heavy = partial(stream, model="swift-srgan", size=HEAVY, kind="jpeg", fps=HEAVY_FPS)
    return [partial(heavy, late="keep"), partial(heavy, late="keep"), partial(heavy, late="drop")]


def warm_up(service: RunningService) -> None:
    """Has the engine try the networks of the overload: what is new to it takes its time, and is no overload."""
    for model in ("swift-srgan", "xlsr"):
        with client(service) as session:
            session.start("jpeg", "jpeg", HEAVY, model=model)
            session.send(0, encode("jpeg", natural(HEAVY[1], HEAVY[0])))
            session.answer()
            session.finish(1)


def stream(
    service: RunningService, stop: threading.Event, *, model: str, size: tuple[int, int], kind: Format, late: str, fps: float
) -> None:
    """A WebSocket session."""
    width, height = size
    payload = encode(kind, natural(height, width))
    places = threading.Semaphore(IN_FLIGHT)
    with client(service, ping_interval=None) as session:
        session.start(kind, kind, size, model=model, late=late, fps=fps)
        threading.Thread(target=_drain, args=(session.socket, places), daemon=True).start()
        number, due = 0, time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / fps, time.monotonic())
            if late == "drop" or places.acquire(timeout=1 / fps):
                session.send(number, payload, pts_us=round(number * 1e6 / fps))
                number += 1


def _drain(socket: ClientConnection, places: threading.Semaphore) -> None:
    """Reads the answers, and keeps none."""
    try:
        for message in socket:
            if isinstance(message, bytes):
                places.release()
    except ConnectionClosed:
        pass


def relay(service: RunningService, stop: threading.Event, *, clip: Path, url: str) -> None:
    """Publishes a stream, which the service then relays."""
    with publisher(clip, url) as publishing:
        while not stop.wait(0.5):
            assert not publishing.ended, publishing.log.read_text()


def pictures(service: RunningService, stop: threading.Event) -> None:
    """A picture now and then."""
    picture = encoded(natural(SMALL[1], SMALL[0]), "PNG")
    with _http(service) as http:
        while not stop.wait(0.5):
            http.post("/v1/images?model=xlsr", content=picture).raise_for_status()


def videos(service: RunningService, stop: threading.Event, *, clip: Path) -> None:
    """One video job after the other."""
    with _http(service) as http:
        while not stop.wait(0.5):
            job = http.post("/v1/videos?model=xlsr", content=clip.read_bytes()).raise_for_status().json()
            while job["state"] in ("queued", "running") and not stop.wait(0.5):
                job = http.get(f"/v1/videos/{job['id']}").raise_for_status().json()
            assert job["state"] == "done" or stop.is_set(), job


def refusals(service: RunningService, stop: threading.Event) -> None:
    """Requests that are wrong in several ways."""
    with _http(service) as http:
        while not stop.wait(0.5):
            assert http.get("/v1/videos/nobodys").status_code == 404
            assert http.post("/v1/images", content=b"no picture").status_code == 415
            assert http.get("/v1/models", headers={"Authorization": ""}).status_code == 401


def _http(service: RunningService) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers=service.headers, timeout=120)
