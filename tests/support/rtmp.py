"""Real RTMP servers, publishers and players, each a process of its own on the loopback interface."""

import hashlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from urllib.request import urlopen
from xml.etree import ElementTree

import av

from server.rtmp_server import RtmpServer, free_port, rtmp_server
from tests.support import clips

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60.0

nginx_rtmp = rtmp_server
"""nginx_rtmp(folder, service_url, secret): nginx with Fourfold's own template, as `server.rtmp_server.RtmpServer`."""


def until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Polls until `condition` gives something true, and gives that back.

    Raises:
        AssertionError: it never did, or raised OSError to the end.
    """
    deadline, last = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except OSError as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"after {seconds:g} s still not: {what} ({last})")


# -- servers ----------------------------------------------------------------------------------------------------------


@contextmanager
def node_media_server(folder: Path) -> Iterator[str]:
    """A second, independent RTMP server that takes and gives every stream; its address without a path."""
    modules, port = ROOT / ".node" / "node_modules", free_port()
    node = shutil.which("node")
    assert node and modules.is_dir(), "node-media-server is missing: run `make system`"
    command = [node, str(Path(__file__).with_name("node_media_server.js")), str(modules), str(port)]
    with (folder / "node-media-server.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: _listens(port), "node-media-server listens")
        yield f"rtmp://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


@dataclass
class Hooks:
    """What a stand-in for the service was asked, and what it answers.

    Attributes:
        url: of the stand-in.
        calls: (hook, fields of the body, the first of each name), in order.
        refuse: names that get 403.
    """

    url: str = ""
    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)

    def named(self, hook: str) -> list[dict[str, str]]:
        return [fields for name, fields in list(self.calls) if name == hook]


@contextmanager
def hook_server(secret: str) -> Iterator[Hooks]:
    """An HTTP server that answers nginx's hooks with 204, or 403 to a wrong secret and the names it refuses."""
    hooks = Hooks()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            fields: dict[str, str] = {}
            for name, value in parse_qsl(body, keep_blank_values=True):
                fields.setdefault(name, value)
            path, _, query = self.path.partition("?")
            hooks.calls.append((path.removeprefix("/hooks/rtmp/"), fields))
            self.send_response(403 if query != f"secret={secret}" or fields.get("name") in hooks.refuse else 204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hooks.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hooks
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def streams(server: RtmpServer) -> dict[str, dict[str, Any]]:
    """What /stat names: "app/name" -> {"publishing": bool, "clients": how many, publisher included}."""
    with urlopen(f"{server.http_url}/stat", timeout=10) as answer:
        root = ElementTree.fromstring(answer.read())
    return {
        f"{application.findtext('name')}/{stream.findtext('name')}": {
            "publishing": stream.find("publishing") is not None,
            "clients": int(stream.findtext("nclients") or 0),
        }
        for application in root.iter("application")
        for stream in application.iter("stream")
    }


def publishes(server: RtmpServer, stream: str) -> bool:
    """Whether someone publishes "app/name"."""
    return bool(streams(server).get(stream, {}).get("publishing"))


# -- publishers -------------------------------------------------------------------------------------------------------


def live_clip(path: Path, **changes: Any) -> Path:
    """A clip as encoders send it live: H.264 baseline, a keyframe every second, AAC beside it."""
    options = {"preset": "ultrafast", "profile": "baseline", "bf": "0", "crf": "23", "g": str(changes.get("rate", 30))}
    wanted: dict[str, Any] = {"width": 96, "height": 64, "frames": 60, "rate": 30, "tone": True, "options": options}
    return clips.write(path, clips.Clip(**wanted | changes))


@dataclass
class Publisher:
    """An FFmpeg that sends a clip in real time, again and again."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def freeze(self) -> None:
        """The connection stays, nothing comes any more."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Gone from one moment to the next; the kernel closes its connection."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends the stream as an encoder does."""
        self.thaw()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(WAIT_SECONDS)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def publisher(clip: Path, url: str, *, loop: bool = True) -> Iterator[Publisher]:
    """Publishes `clip` to `url` without touching its packets; killed at the end if it still runs."""
    log = clip.with_suffix(f".{time.monotonic_ns()}.log")
    repeat = ["-stream_loop", "-1"] if loop else []
    source = ["-nostdin", "-v", "warning", "-re", *repeat, "-i", str(clip)]
    command = [_ffmpeg("ffmpeg"), *source, "-c", "copy", "-flvflags", "no_duration_filesize", "-f", "flv", url]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    running = Publisher(process, log)
    try:
        yield running
    finally:
        if not running.ended:
            running.kill()


def _ffmpeg(name: str) -> str:
    program = shutil.which(name)
    assert program, f"{name} is missing: run `make system`"
    return program


# -- players ----------------------------------------------------------------------------------------------------------


@dataclass
class Player:
    """What came out of a stream so far. One thread reads it; look at copies (`list(player.pictures)`).

    Attributes:
        pictures: (pts in seconds, width, height, time of arrival by time.monotonic) of each decoded one.
        audio: SHA-256 of each audio packet.
        last: the newest picture's luma, [H, W].
        error: that ended it; None while it plays.
    """

    pictures: list[tuple[float, int, int, float]] = field(default_factory=list)
    audio: list[str] = field(default_factory=list)
    codecs: dict[str, str] = field(default_factory=dict)
    last: Any = None
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)

    def sizes(self) -> list[tuple[int, int]]:
        """Each size once, in order."""
        return list(dict.fromkeys((width, height) for _, width, height, _ in list(self.pictures)))

    def read(self, url: str, timeout: tuple[float, float]) -> None:
        try:
            options = {"fflags": "nobuffer", "analyzeduration": "0", "probesize": "1048576"}
            with av.open(url, timeout=timeout, options=options) as source:
                self.codecs = {stream.type: stream.codec_context.name for stream in source.streams}
                self._packets(source)
        except (av.error.FFmpegError, OSError) as error:
            self.error = error
        finally:
            self.ended.set()

    def _packets(self, source: Any) -> None:
        for packet in source.demux():
            if self.stopping.is_set():
                return
            if packet.stream.type == "audio" and packet.size:
                self.audio.append(hashlib.sha256(bytes(packet)).hexdigest())
            elif packet.stream.type == "video":
                for frame in packet.decode():
                    self.last = frame.to_ndarray(format="gray")
                    at = float(frame.pts * frame.time_base)
                    self.pictures.append((at, frame.width, frame.height, time.monotonic()))


@contextmanager
def player(url: str, read_seconds: float = 5.0) -> Iterator[Player]:
    """Plays `url` in a thread until it ends, says nothing for `read_seconds`, or the context does."""
    playing = Player()
    thread = threading.Thread(target=playing.read, args=(url, (WAIT_SECONDS, read_seconds)))
    thread.start()
    try:
        yield playing
    finally:
        playing.stopping.set()
        thread.join(2 * WAIT_SECONDS)


def audio_hashes(path: Path) -> list[str]:
    """SHA-256 of each audio packet of a file, as `Player.audio` has them."""
    with av.open(str(path)) as source:
        return [hashlib.sha256(bytes(packet)).hexdigest() for packet in source.demux(audio=0) if packet.size]


def probe(url: str) -> dict[str, str]:
    """ffprobe's word for a stream: {type: "codec WIDTHxHEIGHT"}; empty where it cannot be opened."""
    entries = "stream=codec_type,codec_name,width,height"
    command = [_ffmpeg("ffprobe"), "-v", "error", "-show_entries", entries, "-of", "default=nk=1:nw=1", url]
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)
        words = done.stdout.split()
        if "video" in words:
            at = words.index("video")
            found = {"video": f"{words[at - 1]} {words[at + 1]}x{words[at + 2]}"}
            return found | ({"audio": words[words.index("audio") - 1]} if "audio" in words else {})
    return {}
