"""Live streaming to look at: an RTMP server, the service, a clip that is published again and again, and how it goes.

Everything runs on this machine's loopback interface, and ends with it.
"""

import json
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from models.errors import FourfoldError
from models.resize import downscale
from server.bench.own_service import OwnService, own_service
from server.demo import RATE, SECONDS, SUPERSAMPLING, draw
from server.media.frames import write_clip
from server.rtmp_server import INSTALL, RtmpServer, free_port

STREAM = "demo"


def run_demo_live(folder: Path, model: str, seconds: float | None, say: Callable[[str], None]) -> None:
    """Streams until it is interrupted, or for so many seconds; says once a second how the relay does.

    Args:
        folder: of the clip and of what the servers write.
        model: of the relay, by its name.
        seconds: from the first picture on; None: for ever.

    Raises:
        FourfoldError: something is missing here, a server did not start, or the relay delivers nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clip = folder / "live.mp4"
    write_clip(clip, (downscale(draw(i / RATE), SUPERSAMPLING) for i in range(RATE * SECONDS)), RATE)
    service_port = _port(8000)
    secret = folder / "hook-secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_urlsafe(24))
    rtmp = RtmpServer(folder / "nginx", f"http://127.0.0.1:{service_port}", secret.read_text(), _port(1935), _port(8080))
    try:
        rtmp.start()
        settings = {"rtmp_server": rtmp.rtmp_url, "hls_url": _hls_url(rtmp), "hook_secret_file": secret.absolute()}
        with (
            own_service(folder, model, port=service_port, **settings) as service,
            _publishing(clip, f"{rtmp.rtmp_url}/live/{STREAM}") as publisher,
        ):
            _tell_addresses(rtmp, service, say)
            _watch(service, publisher, seconds, say)
    finally:
        rtmp.stop()


def _tell_addresses(rtmp: RtmpServer, service: OwnService, say: Callable[[str], None]) -> None:
    say(f"published  {rtmp.rtmp_url}/live/{STREAM}")
    say(f"upscaled   {rtmp.rtmp_url}/upscaled/{STREAM}    (ffplay -fflags nobuffer -flags low_delay …)")
    say(f"as HLS     {_hls_url(rtmp)}/{STREAM}.m3u8")
    say(f"page       http://127.0.0.1:{service.port}/")
    say("Ctrl-C ends it")


def _hls_url(rtmp: RtmpServer) -> str:
    return f"{rtmp.http_url}/hls"


def _watch(
    service: OwnService, publisher: "subprocess.Popen[bytes]", seconds: float | None, say: Callable[[str], None]
) -> None:
    """Raises: FourfoldError: the publisher or the relay ended, or the relay delivered nothing within the time."""
    began: float | None = None
    started = time.monotonic()
    while began is None or seconds is None or time.monotonic() < began + seconds:
        time.sleep(1)
        if publisher.poll() is not None:
            raise FourfoldError(
                "the publisher ended: the RTMP server or its hooks refused it; the logs are in the demo's folder"
            )
        relay = _relay(service)
        if relay and relay["state"] in ("ended", "failed"):
            raise FourfoldError(
                f"the relay {relay['state']}: {(relay.get('error') or relay).get('message') or relay['reason']}"
            )
        if relay and relay["latency_ms"]["p50"] is not None:
            began = began or time.monotonic()
        say(_line(relay))
        if began is None and seconds is not None and time.monotonic() > started + seconds + 120:
            raise FourfoldError("the relay delivered no picture; service.log in the demo's folder may say why")


def _line(relay: dict[str, Any] | None) -> str:
    """How the relay does, in a line."""
    if relay is None or relay["latency_ms"]["p50"] is None:
        return "no picture yet"
    latency = ", ".join(f"{name} {value:.0f}" for name, value in relay["latency_ms"].items())
    drops = ", ".join(f"{reason} {count}" for reason, count in relay["drops"].items() if count) or "none"
    return (
        f"{relay['state']}  {relay['model']}  {relay['fps_in']:.1f} in, {relay['fps_out']:.1f} out frames/s  "
        f"latency ms: {latency}  drops: {drops}"
    )


def _relay(service: OwnService) -> dict[str, Any] | None:
    """The relay of our stream; None while there is none."""
    with closing(HTTPConnection("127.0.0.1", service.port, timeout=10)) as connection:
        connection.request("GET", "/v1/relays")
        relays: list[dict[str, Any]] = json.loads(connection.getresponse().read()).get("relays", [])
    return next((relay for relay in relays if relay["source"].endswith(f"/live/{STREAM}")), None)


@contextmanager
def _publishing(clip: Path, url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """FFmpeg sends the clip again and again, at the speed it plays at."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise FourfoldError(f"ffmpeg is missing: install it (for the RTMP server {INSTALL})")
    source = ["-nostdin", "-v", "warning", "-re", "-stream_loop", "-1", "-i", str(clip)]
    sound = ["-f", "lavfi", "-i", "sine=frequency=440:beep_factor=4:sample_rate=48000"]
    coding = [
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-tune",
        "zerolatency",
        "-profile:v",
        "baseline",
    ]
    coding += ["-g", str(2 * RATE), "-b:v", "600k", "-maxrate", "600k", "-bufsize", "600k", "-c:a", "aac"]
    command = [ffmpeg, *source, *sound, *coding, "-f", "flv", url]
    with clip.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603 - our own arguments
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _port(usual: int) -> int:
    """The usual port if nobody has it, else a free one."""
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", usual))
        return usual
    return free_port()
