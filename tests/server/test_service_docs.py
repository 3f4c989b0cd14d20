"""The commands of docs/service.md and docs/monitoring.md, as they stand there but for the port and the ids."""

import json
from pathlib import Path

import pytest
from PIL import Image

from server.rtmp_server import free_port
from tests.support.clips import write
from tests.support.documents import Terminal, block, blocks, commands
from tests.support.pictures import encoded, ramp
from tests.support.rtmp import until

PAGE = "docs/service.md"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """With what the page takes: a picture and a video."""
    (tmp_path / "small.png").write_bytes(encoded(ramp(24, 32), "PNG"))
    write(tmp_path / "small.mp4")
    opened = Terminal(tmp_path, free_port())
    opened.variables |= {"FOURFOLD_ENGINE": "openvino", "FOURFOLD_PRECISION": "fp32"}  # no trial of all others
    return opened


def test_pictures_videos_and_relays(terminal: Terminal) -> None:
    assert "fourfold serve\n" in blocks(PAGE)
    with terminal.serving("fourfold serve"):
        terminal.type(block(PAGE, "/v1/images"))
        for name, kind in (("large.png", "PNG"), ("large.webp", "WEBP")):
            with Image.open(terminal.folder / name) as picture:
                assert (picture.size, picture.format) == ((128, 96), kind)

        upload, look, fetch, remove = commands(block(PAGE, "/v1/videos"))
        video = json.loads(terminal.type(upload))["id"]
        until(lambda: json.loads(terminal.type(_of(look, video)))["state"] == "done", "the video is done")
        terminal.type(_of(fetch, video))
        assert (terminal.folder / "upscaled.mp4").read_bytes()[4:8] == b"ftyp"
        assert terminal.type(_of(remove, video)) == ""

        start, look, remove = commands(block(PAGE, "/v1/relays"))
        relay = json.loads(terminal.type(start))["id"]
        assert json.loads(terminal.type(_of(look, relay)))["source"] == "rtmp://127.0.0.1/live/cam1"
        assert terminal.type(_of(remove, relay)) == ""


def test_places_of_relays(terminal: Terminal) -> None:
    (serve,) = commands(block(PAGE, "FOURFOLD_RELAY_SOURCES"))
    with terminal.serving(serve):
        assert "relays" in terminal.type("curl http://127.0.0.1:8000/v1/relays")


def test_stream_keys(terminal: Terminal) -> None:
    publish, play, serve = commands(block(PAGE, "fourfold keys stream add"))
    assert terminal.type(publish).startswith("ff_") and terminal.type(play).startswith("ff_")
    with terminal.serving(serve):
        pass


def test_keys(terminal: Terminal) -> None:
    add, serve, ask = commands(block(PAGE, "fourfold keys add"))
    terminal.variables["KEY"] = terminal.type(add).strip()
    with terminal.serving(serve):
        assert "xlsr" in terminal.type(ask)


def test_the_key_of_prometheus(terminal: Terminal) -> None:
    add, ask = commands(block("docs/monitoring.md", "fourfold keys add"))
    terminal.variables["KEY"] = terminal.type(add).strip()
    with terminal.serving("FOURFOLD_API_KEYS_FILE=keys.json fourfold serve"):
        assert "fourfold_build_info{" in terminal.type(ask)


def _of(command: str, name: str) -> str:
    """A command about this job or relay."""
    assert "/ID" in command
    return command.replace("/ID", f"/{name}")
