"""A service, an RTMP server and streams between the two, all real; and publishers whose every tag a test decides."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from engines.runner import Plane
from server.media import _tags, flv
from server.media.live_encoder import LiveEncoder, LiveVideo
from server.media.rtmp import AwayError, RtmpSource, RtmpTarget
from server.rtmp_server import RtmpServer, free_port
from tests.support.rtmp import Player, live_clip, nginx_rtmp, player, publisher, until
from tests.support.service import RunningService, running_service

PATIENT = {
    "model": "bicubic",
    "engine": "openvino",
    "live_budget_ms": 5000,
    "frame_queue": 120,
    "relay_max_load": 100,
    "source_timeout_seconds": 2,
    "target_timeout_seconds": 3,
    "hold_seconds": 20,
}
"""Settings with which a busy machine loses no frame: what is lost then, a fault has taken."""

SILENCE = 8.0
"""Seconds that a player of these streams waits for a packet: they are never so long without one before they end."""


@dataclass
class Rig:
    """A service with its RTMP server."""

    service: RunningService
    nginx: RtmpServer
    folder: Path

    def publish_url(self, name: str) -> str:
        return f"{self.nginx.rtmp_url}/live/{name}"

    def play_url(self, name: str) -> str:
        return f"{self.nginx.rtmp_url}/upscaled/{name}"

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        with httpx.Client(base_url=self.service.url, headers=self.service.headers, timeout=60) as client:
            return client.request(method, path, **more)

    def relays(self) -> list[dict[str, Any]]:
        """Newest first."""
        relays: list[dict[str, Any]] = self.request("GET", "/v1/relays").json()["relays"]
        return relays

    def relay(self, name: str) -> dict[str, Any]:
        """The newest relay of a stream; empty if there is none."""
        return next((relay for relay in self.relays() if name in (relay["stream"], relay["id"])), {})

    def create(self, source: str, target: str, **more: Any) -> str:
        """Starts a relay by request; its id."""
        answer = self.request("POST", "/v1/relays", json={"source": source, "target": target, **more})
        assert answer.status_code == 201, answer.text
        relay: str = answer.json()["id"]
        return relay

    def has(self, name: str, **values: Any) -> dict[str, Any]:
        """The relay, once its figures are these (`state="running"`)."""
        return self.shows(name, lambda relay: all(relay[key] == value for key, value in values.items()), str(values))

    def shows(self, name: str, test: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """The relay, once it passes a test."""
        seen: list[dict[str, Any]] = []

        def passes() -> bool:
            seen.append(self.relay(name))
            return bool(seen[-1] and test(seen[-1]))

        try:
            until(passes, f"{name} has {what}")
        except AssertionError as error:
            told = [line for line in self.service.log if " GET " not in line]
            raise AssertionError(f"{error}; it is {seen[-1]}; log:\n" + "\n".join(told[-30:])) from None
        return seen[-1]

    def clear(self) -> None:
        """Ends and forgets every relay."""
        for relay in self.relays():
            self.request("DELETE", f"/v1/relays/{relay['id']}")
        until(lambda: not self.relays(), "no relay is left")

    @contextmanager
    def publishes(self, name: str, clip: Path) -> Iterator[Any]:
        """FFmpeg publishes a clip, again and again."""
        with publisher(clip, self.publish_url(name)) as running:
            yield running

    @contextmanager
    def plays(self, name: str, pictures: int = 1) -> Iterator[Player]:
        """Somebody plays the upscaled stream, and has seen some pictures."""
        with player(self.play_url(name), SILENCE) as playing:
            sees(playing, pictures)
            yield playing


@contextmanager
def running_rig(folder: Path, **settings: Any) -> Iterator[Rig]:
    """Starts both, and stops them."""
    folder.mkdir(parents=True, exist_ok=True)
    secret_file, secret, port = folder / "hook-secret", secrets.token_hex(16), free_port()
    secret_file.write_text(secret)
    with nginx_rtmp(folder / "nginx", f"http://127.0.0.1:{port}", secret) as nginx:
        known = {"port": port, "rtmp_server": nginx.rtmp_url, "hook_secret_file": secret_file}
        known["hls_url"] = f"{nginx.http_url}/hls"
        with running_service(folder, **PATIENT | known | settings) as service:
            yield Rig(service, nginx, folder)


@contextmanager
def undisturbed(rig: Rig, name: str = "bystander") -> Iterator[None]:
    """Whatever happens inside, another stream goes on, losing nothing, in order, under the same api process."""
    before = rig.has(name, state="running")
    with rig.plays(name) as playing:
        yield
        seen = len(playing.pictures)
        sees(playing, seen + 10)
        stamps = [picture[0] for picture in list(playing.pictures)]
    after = rig.has(name, state="running")
    for figure in ("id", "drops", "reconnects"):
        assert (figure, after[figure]) == (figure, before[figure])
    for figure in ("failed", "held"):
        assert (figure, after["frames"][figure]) == (figure, before["frames"][figure])
    assert stamps == sorted(stamps)
    assert rig.service.process.poll() is None, "the api process ended"


def sees(playing: Player, pictures: int) -> None:
    """Waits until a player has seen so many pictures."""
    until(lambda: len(playing.pictures) >= pictures or playing.error, f"{pictures} pictures, not {len(playing.pictures)}")
    assert playing.error is None, playing.error


@dataclass
class Tap:
    """What the RTMP server gives a player, from the first byte: decoders pass over what comes before they know the stream.

    Attributes:
        pictures: (stamp in ms, keyframe) of each access unit.
        sounds: stamps of each piece of sound.
        configurations: of pictures, in order.
    """

    pictures: list[tuple[int, bool]] = field(default_factory=list)
    sounds: list[int] = field(default_factory=list)
    configurations: list[bytes] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def read(self, url: str) -> None:
        while not self.stopping.is_set():  # before there is a stream, a connection to it is silent for too long
            reader = flv.Reader()
            with suppress(AwayError), closing(RtmpSource(url, None, SILENCE)) as source:
                for chunk in source.chunks():
                    if self.stopping.is_set():
                        return
                    for tag in reader.feed(chunk):
                        self._take(tag)

    def _take(self, tag: flv.Tag) -> None:
        if tag.kind is flv.TagKind.AUDIO and not flv.parse_audio(tag.payload).configures:
            self.sounds.append(tag.timestamp)
        elif tag.kind is flv.TagKind.VIDEO:
            video = flv.parse_video(tag.payload)
            if video.configures:
                self.configurations.append(video.data)
            elif video.data:
                self.pictures.append((tag.timestamp, video.keyframe))


@contextmanager
def tapped(url: str) -> Iterator[Tap]:
    """Reads a stream as long as the context lasts."""
    tap = Tap()
    thread = threading.Thread(target=tap.read, args=(url,))
    thread.start()
    try:
        yield tap
    finally:
        tap.stopping.set()
        thread.join(120)


def small_clip(folder: Path, name: str = "clip", **changes: Any) -> Path:
    """96x64 at 15 frames/s, with sound."""
    return live_clip(folder / f"{name}.flv", **{"rate": 15, "frames": 60, **changes})


@dataclass
class Script:
    """A publisher whose tags a test sends one by one."""

    url: str
    target: RtmpTarget = field(init=False)
    stamp: int = 0  # of the next picture, ms
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.target = RtmpTarget(self.url, None)
        self.target.write(flv.file_header() + flv.metadata(96, 64, 15, sound=True))

    def use(self, width: int = 96, height: int = 64, keyframe_seconds: float = 1.0) -> None:
        """Pictures of this size follow, with a new configuration."""
        video = LiveVideo(width, height, 15, _tags.Tags(1, 1, 1, 1), "libx264", 500_000, keyframe_seconds)
        self.encoder, self.size, self.fresh = LiveEncoder(video), (width, height), True
        self.target.write(flv.picture_configuration(self.stamp & 0xFFFFFFFF, self.encoder.configuration))

    def blank(self) -> Plane:
        """A grey picture, another grey each time."""
        width, height = self.size
        return np.full((height * 3 // 2, width), 90 + self.stamp // 66 % 100, np.uint8)

    def picture(self, stamp: int | None = None, keyframe: bool = False) -> None:
        """One picture, at its time or another."""
        encoded = self.encoder.encode(self.blank(), self.stamp, keyframe or self.fresh)
        self.fresh = False
        self.target.write(flv.picture(self.stamp if stamp is None else stamp, encoded.keyframe, encoded.data))
        self.stamp += 66

    def pictures(self, count: int, shift: Callable[[int], int] = lambda stamp: stamp, sound: bool = False) -> None:
        """So many in real time; their stamps are what `shift` makes of their time."""
        for _ in range(count):
            at = shift(self.stamp)
            if sound:
                self.sound(at)
            self.picture(at)
            time.sleep(0.066)

    def sound(self, stamp: int, payload: bytes = b"\x2f\xff\xfb\x90\x64" + bytes(413)) -> None:
        """Some MP3, or whatever the tag of sound holds."""
        self.target.write(flv.tag(flv.TagKind.AUDIO, stamp, payload))

    def close(self) -> None:
        self.target.close()


@contextmanager
def script(url: str) -> Iterator[Script]:
    """See there."""
    running = Script(url)
    try:
        yield running
    finally:
        running.close()
