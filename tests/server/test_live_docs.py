"""The commands of docs/live.md, as they stand there but for the ports and the clip."""

import re
import shlex
import subprocess
from pathlib import Path

from server.rtmp_server import RtmpServer
from tests.support.rtmp import hook_server, live_clip, nginx_rtmp, publisher, publishes, until

PAGE = Path(__file__).parents[2] / "docs" / "live.md"
COMMANDS = re.findall(r"```sh\n(.+?)\n```", PAGE.read_text(), re.DOTALL)


def command(program: str, word: str, server: RtmpServer) -> list[str]:
    """The one command of `program` that has `word` in it."""
    (found,) = [text for text in COMMANDS if text.startswith(f"{program} ") and word in text]
    found = found.replace("127.0.0.1:1935", f"127.0.0.1:{server.rtmp_port}")
    return shlex.split(found.replace("127.0.0.1:8080", f"127.0.0.1:{server.http_port}"))


def said(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_publishing(tmp_path: Path) -> None:
    clip = live_clip(tmp_path / "clip.mp4")
    with hook_server("s") as hooks, nginx_rtmp(tmp_path / "nginx", hooks.url, "s") as server:
        words = [str(clip) if word == "demo/clip.mp4" else word for word in command("ffmpeg", "/live/cam", server)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: publishes(server, "live/cam"), "FFmpeg publishes")
        finally:
            process.kill()
            process.wait()
        assert hooks.named("publish")[0]["key"] == "KEY"


def test_watching(tmp_path: Path) -> None:
    clip = live_clip(tmp_path / "clip.mp4")
    with (
        hook_server("s") as hooks,
        nginx_rtmp(tmp_path / "nginx", hooks.url, "s") as server,
        publisher(clip, f"{server.rtmp_url}/upscaled/cam"),
    ):
        until(lambda: publishes(server, "upscaled/cam"), "published")
        assert "h264,96,64" in said(command("ffprobe", "/upscaled/cam", server))
        until(lambda: (server.folder / "hls" / "cam.m3u8").exists(), "HLS")
        assert ".ts" in said(command("curl", "/hls/cam.m3u8", server))
        assert "<name>cam</name>" in said(command("curl", "/stat", server))
