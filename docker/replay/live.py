"""A stream through both containers: published with a key, upscaled by a relay that the hooks start, and played as HLS."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from checks import PATIENCE_SECONDS, status_of
from errors import ReplayError

NAME = "replay"
SOURCE = "testsrc2=size=160x90:rate=15"


def can_publish() -> bool:
    """Whether this machine has an FFmpeg to publish with."""
    return shutil.which("ffmpeg") is not None


def refused_without_key(rtmp: str) -> None:
    """Raises: ReplayError: someone without a key, or with a wrong one, may publish."""
    for key in ("", "?key=wrong"):
        with _publishing(f"{rtmp}/live/{NAME}{key}") as publisher:
            if publisher.wait(PATIENCE_SECONDS) == 0:
                raise ReplayError(f"a publisher with {key or 'no key'} was let in")


def upscaled(rtmp: str, http: str, key: str) -> None:
    """Raises: ReplayError: what was published is not played as HLS."""
    with _publishing(f"{rtmp}/live/{NAME}?key={key}") as publisher:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (status := status_of(f"{http}/hls/{NAME}.m3u8", "")) != 200:
            if publisher.poll() is not None or time.monotonic() > deadline:
                said = publisher.communicate()[1] if publisher.poll() is not None else ""
                raise ReplayError(f"no HLS of a published stream: {status}; the publisher: {said[-500:]}")
            time.sleep(0.5)


@contextmanager
def _publishing(url: str) -> Iterator["subprocess.Popen[str]"]:
    encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "15", "-pix_fmt", "yuv420p"]
    source = ["-re", "-f", "lavfi", "-i", SOURCE, "-t", str(2 * PATIENCE_SECONDS)]
    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", *source, *encoder, "-f", "flv", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
