"""The commands of docs/live.md, as they stand there but for the ports."""

from pathlib import Path

import pytest

from server.rtmp_server import free_port
from tests.support.documents import Terminal, block, commands
from tests.support.rtmp import hook_server, live_clip, nginx_rtmp, publishes, until

PAGE = "docs/live.md"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """With a clip to publish."""
    (tmp_path / "demo").mkdir()
    live_clip(tmp_path / "demo" / "clip.mp4")
    return Terminal(tmp_path, free_port())


def test_publishing_shows_the_key(terminal: Terminal, tmp_path: Path) -> None:
    with hook_server("s") as hooks, nginx_rtmp(tmp_path / "nginx", hooks.url, "s") as server:
        terminal.ports[1935] = server.rtmp_port
        with terminal.running(block(PAGE, "/live/cam")):
            until(lambda: publishes(server, "live/cam"), "FFmpeg publishes")
        assert hooks.named("publish")[0]["key"] == "KEY"


def test_from_the_secret_to_the_viewer(terminal: Terminal, tmp_path: Path) -> None:
    terminal.variables["FOURFOLD_MODEL"] = "bicubic"
    make_secret, serve = commands(block(PAGE, "FOURFOLD_HOOK_SECRET_FILE=hook-secret"))
    terminal.type(make_secret)
    secret = (tmp_path / "hook-secret").read_text()
    with nginx_rtmp(tmp_path / "nginx", f"http://127.0.0.1:{terminal.ports[8000]}", secret) as server:
        terminal.ports |= {1935: server.rtmp_port, 8080: server.http_port}
        with terminal.serving(serve), terminal.running(block(PAGE, "/live/cam")):
            until(lambda: publishes(server, "upscaled/cam"), "the relay publishes")
            assert "h264,1920,1080" in terminal.type(block(PAGE, "ffprobe"))
            until(lambda: (server.folder / "hls" / "cam.m3u8").exists(), "HLS")
            assert ".ts" in terminal.type(block(PAGE, "/hls/cam.m3u8"))
            assert '"stream":"cam"' in terminal.type(block(PAGE, "/v1/relays"))
            assert "<name>cam</name>" in terminal.type(block(PAGE, "8080/stat"))
