"""The RTMP server by our template, without a service; and that what the tests of relays are made of does what it says."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from models.errors import FourfoldError
from server.rtmp_server import RtmpServer, rendered
from tests.support.network import Proxy, SilentServer
from tests.support.rtmp import (
    Hooks,
    audio_hashes,
    hook_server,
    live_clip,
    nginx_rtmp,
    node_media_server,
    player,
    probe,
    publisher,
    publishes,
    streams,
    until,
)

SECRET = "only-nginx_knows"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rtmp")


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    with hook_server(SECRET) as hooks:
        yield hooks


@pytest.fixture(scope="module")
def server(folder: Path, hooks: Hooks) -> Iterator[RtmpServer]:
    with nginx_rtmp(folder / "nginx", hooks.url, SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return live_clip(folder / "clip.mp4")


def test_what_is_published_is_played_as_it_was(server: RtmpServer, hooks: Hooks, clip: Path) -> None:
    url = f"{server.rtmp_url}/live/copy"
    with publisher(clip, f"{url}?key=K1&name=other"):
        until(lambda: publishes(server, "live/copy"), "/stat names the publisher")
        with player(f"{url}?token=T") as playing:
            until(lambda: len(playing.pictures) > 40 and len(playing.audio) > 40, "pictures and sound")
            assert streams(server)["live/copy"]["clients"] == 2
    assert playing.sizes() == [(96, 64)]
    assert playing.codecs == {"video": "h264", "audio": "aac"}
    assert set(playing.audio) <= set(audio_hashes(clip))
    times = [at for at, *_ in playing.pictures]
    assert times == sorted(set(times))
    published, played = hooks.named("publish")[0], hooks.named("play")[0]
    assert (published["app"], published["name"], published["key"]) == ("live", "copy", "K1")
    assert (played["name"], played["token"]) == ("copy", "T")
    until(lambda: hooks.named("publish_done"), "publish_done")
    assert hooks.named("publish_done")[0]["clientid"] == published["clientid"]


def test_hooks_refuse(server: RtmpServer, hooks: Hooks, clip: Path) -> None:
    hooks.refuse |= {"forbidden"}
    before = len(hooks.named("publish_done"))
    with publisher(clip, f"{server.rtmp_url}/upscaled/forbidden") as refused:
        until(lambda: refused.ended, "the publisher is refused")
    assert probe(f"{server.rtmp_url}/upscaled/forbidden") == {}
    assert "upscaled/forbidden" not in streams(server)
    assert len(hooks.named("publish_done")) == before


def test_nobody_publishes_while_the_service_is_away(folder: Path, clip: Path) -> None:
    with nginx_rtmp(folder / "alone", "http://127.0.0.1:9", SECRET) as server:
        with publisher(clip, f"{server.rtmp_url}/live/a") as refused:
            until(lambda: refused.ended, "the publisher is refused")
        with urlopen(f"{server.http_url}/health", timeout=10) as answer:
            assert answer.status == 200


def test_viewers_stay_when_a_publisher_comes_back_with_another_size(server: RtmpServer, folder: Path, clip: Path) -> None:
    other = live_clip(folder / "other.mp4", width=64, height=48)
    url = f"{server.rtmp_url}/upscaled/returns"
    with ExitStack() as later, publisher(clip, url) as first:
        until(lambda: "upscaled/returns" in streams(server), "published")
        with player(url, read_seconds=60) as playing:
            until(lambda: len(playing.pictures) > 5, "pictures")
            first.kill()
            until(lambda: not publishes(server, "upscaled/returns"), "the publisher is gone")
            later.enter_context(publisher(other, url))
            until(lambda: (64, 48) in playing.sizes() or playing.ended.is_set(), "pictures of the other size")
            assert not playing.ended.is_set()


def test_a_frozen_publisher_makes_room(server: RtmpServer, clip: Path) -> None:
    url = f"{server.rtmp_url}/live/frozen"
    with publisher(clip, url) as first:
        until(lambda: publishes(server, "live/frozen"), "published")
        with publisher(clip, url) as second:
            until(lambda: second.ended, "a second publisher is refused")
        first.freeze()
        until(lambda: not publishes(server, "live/frozen"), "the frozen one is dropped")
        with publisher(clip, url):
            until(lambda: publishes(server, "live/frozen"), "its successor is taken")


def test_hls_appears_with_what_a_page_needs(server: RtmpServer, clip: Path) -> None:
    with publisher(clip, f"{server.rtmp_url}/upscaled/page"):
        playlist = f"{server.http_url}/hls/page.m3u8"
        until(lambda: _get(playlist).count(b".ts") >= 2, "a playlist of two fragments")
        with urlopen(playlist, timeout=10) as answer:
            lines = answer.read().decode().split()
            assert answer.headers["Content-Type"] == "application/vnd.apple.mpegurl"
            assert (answer.headers["Access-Control-Allow-Origin"], answer.headers["Cache-Control"]) == ("*", "no-store")
        (name, *_) = [line for line in lines if line.endswith(".ts")]
        with urlopen(f"{server.http_url}/hls/{name}", timeout=10) as answer:
            assert answer.headers["Content-Type"] == "video/mp2t" and answer.read(1) == b"G"
    assert probe(playlist)["video"] == "h264 96x64"


def test_a_killed_server_starts_again_on_its_ports(folder: Path, hooks: Hooks, clip: Path) -> None:
    with nginx_rtmp(folder / "killed", hooks.url, SECRET) as server:
        url = f"{server.rtmp_url}/live/again"
        with publisher(clip, url) as cut:
            until(lambda: "live/again" in streams(server), "published")
            server.kill()
            until(lambda: cut.ended, "the publisher is cut off")
        server.start()
        with publisher(clip, url):
            until(lambda: probe(url).get("video") == "h264 96x64", "it plays again")


def test_node_media_server_plays_what_is_published(tmp_path: Path, clip: Path) -> None:
    with node_media_server(tmp_path) as address, publisher(clip, f"{address}/live/a"):
        until(lambda: probe(f"{address}/live/a") == {"video": "h264 96x64", "audio": "aac"}, "it plays")


def test_a_proxy_delays_stalls_and_cuts(server: RtmpServer, clip: Path) -> None:
    with Proxy(server.rtmp_port) as proxy, publisher(clip, f"rtmp://127.0.0.1:{proxy.port}/live/far") as far:
        until(lambda: publishes(server, "live/far"), "published through the proxy")
        with player(f"{server.rtmp_url}/live/far", read_seconds=60) as playing:
            until(lambda: playing.pictures, "pictures")
            proxy.stall()
            until(lambda: _stands_still(playing.pictures), "pictures stand still")
            proxy.resume()
            count = len(playing.pictures)
            until(lambda: len(playing.pictures) > count + 5, "pictures go on")
        proxy.delay_seconds, proxy.bytes_per_second = 0.01, 1e6
        proxy.down()
        until(lambda: far.ended, "the publisher is cut off")


def _get(url: str) -> bytes:
    try:
        with urlopen(url, timeout=10) as answer:
            return bytes(answer.read())
    except HTTPError as error:  # not there yet
        error.close()
        return b""


def _stands_still(pictures: list[tuple[float, int, int, float]]) -> bool:
    """Nothing came for a second."""
    return time.monotonic() - pictures[-1][-1] > 1


def test_a_silent_server_keeps_an_rtmp_client_waiting(clip: Path) -> None:
    with SilentServer() as silent, publisher(clip, f"rtmp://127.0.0.1:{silent.port}/live/a") as waiting:
        until(lambda: silent.connections, "it connects")
        assert not waiting.ended


def test_values_that_nginx_would_misread_are_refused() -> None:
    assert rendered("listen ${PORT}; $uri", {"PORT": "[::1]:1935"}) == "listen [::1]:1935; $uri"
    with pytest.raises(FourfoldError, match=r"PORT \('1; evil'\) cannot stand"):
        rendered("listen ${PORT};", {"PORT": "1; evil"})
    with pytest.raises(FourfoldError, match="HOOK_SECRET cannot stand in nginx's configuration: it must be letters"):
        rendered("${HOOK_SECRET}", {"HOOK_SECRET": "a/b+c="})
    with pytest.raises(FourfoldError, match="needs a value for PORT"):
        rendered("listen ${PORT};", {})
