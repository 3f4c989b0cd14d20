"""`fourfold demo-live`: a stream to look at, and nothing of it left behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from tests.support.rtmp import until

COMMAND = [sys.executable, "-m", "server.cli", "demo-live", "--model", "bicubic"]


def descendants(pid: int) -> set[int]:
    """Processes that came from this one and run."""
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child} | descendants(child)
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_for_some_seconds(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, str(tmp_path), "--seconds", "2"], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"upscaled +rtmp://127\.0\.0\.1:\d+/upscaled/demo", done.stderr)
    assert re.search(r"running  bicubic .* latency ms: p50 \d+, p95 \d+, p99 \d+  drops: ", done.stderr)


def test_until_it_is_interrupted(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as said:
        demo = subprocess.Popen([*COMMAND, str(tmp_path / "demo")], stderr=said)
    try:
        until(lambda: "Ctrl-C ends it" in (tmp_path / "said").read_text() or demo.poll() is not None, "the demo has started")
        started = descendants(demo.pid)
        told = (tmp_path / "said").read_text()
        [hls], [page] = re.findall(r"as HLS +(\S+)/demo\.m3u8", told), re.findall(r"page +(\S+)", told)
        with urlopen(page, timeout=10) as answer:
            assert f'<meta name="fourfold-hls" content="{hls}">' in answer.read().decode()
        os.kill(demo.pid, signal.SIGINT)
        assert demo.wait(60) == 130, (tmp_path / "said").read_text()
    finally:
        demo.kill()
        demo.wait()
    assert len(started) >= 4
    until(lambda: not any(map(running, started)), "all that was started has ended")
