"""Live relays with real RTMP servers: what viewers get, and what the service says of it."""

import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
import httpx
import pytest

from tests.support.rig import PATIENT, SILENCE, Rig, running_rig, sees, small_clip
from tests.support.rtmp import audio_hashes, node_media_server, player, probe, publisher, streams, until
from tests.support.service import running_service

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _nothing_else(rig: Rig) -> Iterator[None]:
    """Each test has the service to itself."""
    yield
    rig.clear()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("relay")) as rig:
        yield rig


def test_a_published_stream_is_upscaled_by_itself_with_its_sound_untouched(rig: Rig) -> None:
    clip = small_clip(rig.folder, "game")
    with rig.publishes("game", clip):
        rig.has("game", state="running")
        assert probe(rig.play_url("game")) == {"video": "h264 384x256", "audio": "aac"}
        with rig.plays("game", 40) as playing:
            heard = list(playing.audio)
    assert len(heard) > 20
    once = audio_hashes(clip)
    looped = once * 20
    assert any(looped[at : at + 20] == heard[1:21] for at in range(len(once)))
    relay = rig.relay("game")
    assert (relay["input"]["width"], relay["output"]["width"], relay["encoder"]) == (96, 384, "libx264")


def test_viewers_get_what_the_service_says_it_delivered(rig: Rig) -> None:
    """Every picture in its order; what came in is delivered, dropped for a reason that is counted, or under way."""
    before = rig.service.metrics()
    clip = small_clip(rig.folder, "counted")
    with player(rig.play_url("counted"), SILENCE) as playing, rig.publishes("counted", clip) as publishing:
        sees(playing, 30)
        publishing.stop()
        relay = rig.shows("counted", lambda relay: relay["state"] == "holding" and relay["frames"]["held"] > 5, "held frames")
        rig.request("DELETE", f"/v1/relays/{relay['id']}")
        until(lambda: not rig.relay("counted"), "the relay is gone")
        until(lambda: not streams(rig.nginx).get("upscaled/counted", {}).get("publishing"), "nothing is published")
        count = -1
        while count != len(playing.pictures):  # what is on its way arrives
            count = len(playing.pictures)
            time.sleep(1.0)
        stamps = [picture[0] for picture in playing.pictures]
    after = rig.service.metrics()

    def rise(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    delivered = rise('fourfold_frames_total{kind="relay",outcome="delivered"}')
    dropped = rise('fourfold_frames_total{kind="relay",outcome="dropped"}')
    assert relay["frames"]["delivered"] == delivered
    assert relay["frames"]["in"] == relay["frames"]["delivered"] + relay["frames"]["dropped"]
    assert relay["frames"]["dropped"] == sum(relay["drops"].values()) == dropped
    assert count >= relay["frames"]["delivered"] + relay["frames"]["held"]  # some more were held until it was removed
    assert stamps == sorted(set(stamps))
    for reason, number in relay["drops"].items():
        assert rise(f'fourfold_frames_dropped_total{{kind="relay",reason="{reason}"}}') == number


def test_a_publisher_that_ends_has_all_its_pictures_sent(rig: Rig) -> None:
    clip = small_clip(rig.folder, "once")
    with publisher(clip, rig.publish_url("once"), loop=False) as publishing:
        rig.has("once", state="running")
        until(lambda: publishing.ended, "the publisher has ended")
    relay = rig.shows("once", lambda relay: relay["state"] == "holding" and not relay["frames"]["under_way"], "settled")
    frames = relay["frames"]
    assert set(relay["drops"]) <= {"burst", "target"}  # at the start, while the target was being connected
    assert frames["in"] == frames["delivered"] + sum(relay["drops"].values())
    assert frames["delivered"] > 20


def test_node_media_server_s_streams_are_relayed_on_request(rig: Rig, tmp_path: Path) -> None:
    with node_media_server(tmp_path) as address, running_rig(tmp_path, rtmp_server=address) as other:
        clip = small_clip(tmp_path)
        with publisher(clip, f"{address}/live/cam"):
            relay = other.create(f"{address}/live/cam", f"{address}/upscaled/cam", scale=2)
            other.has(relay, state="running")
            until(lambda: probe(f"{address}/upscaled/cam") == {"video": "h264 192x128", "audio": "aac"}, "the stream")
            with player(f"{address}/upscaled/cam", SILENCE) as playing:
                sees(playing, 20)


def test_the_bitrate_is_the_one_that_was_asked_for_and_keyframes_come_in_time(rig: Rig) -> None:
    clip = small_clip(rig.folder, "rate")
    with publisher(clip, rig.publish_url("rate")):
        rig.has("rate", state="running")
        wanted = {"bitrate": 1_500_000, "keyframe_seconds": 1.0, "encoder": "libx264"}
        relay = rig.create(rig.publish_url("rate"), rig.play_url("rated"), **wanted)
        assert rig.has(relay, state="running")["bitrate"] == 1_500_000
        with av.open(rig.play_url("rated"), timeout=(60, 60)) as source:
            packets = []
            for packet in source.demux(video=0):
                packets.append((float(packet.pts * packet.time_base), packet.size, packet.is_keyframe))
                if len(packets) == 75:
                    break
        rig.request("DELETE", f"/v1/relays/{relay}")
    seconds = packets[-1][0] - packets[15][0]
    assert 8 * sum(size for _, size, _ in packets[16:]) / seconds == pytest.approx(1_500_000, rel=0.2)
    keys = [at for at, _, keyframe in packets if keyframe]
    assert max(later - earlier for earlier, later in pairwise(keys)) < 1.2


def test_relays_survive_a_restart_of_the_service(tmp_path: Path) -> None:
    """Killed without a word, it goes on with what is published; the viewer at the RTMP server stays."""
    clip = small_clip(tmp_path)
    with running_rig(tmp_path) as rig, publisher(clip, rig.publish_url("game")), rig.plays("game", 10) as playing:
        old = rig.relay("game")["id"]
        rig.service.process.send_signal(signal.SIGKILL)
        rig.service.process.wait()
        seen = len(playing.pictures)
        again = {"port": rig.service.port, "rtmp_server": rig.nginx.rtmp_url, "hook_secret_file": tmp_path / "hook-secret"}
        with running_service(tmp_path, **PATIENT | again) as service:
            rig.service = service
            assert rig.has("game", state="running")["id"] == old
            sees(playing, seen + 20)


def test_hls_of_the_upscaled_stream_is_there(rig: Rig) -> None:
    with rig.publishes("hls", small_clip(rig.folder, "hls")):
        url = f"{rig.nginx.http_url}/hls/hls.m3u8"
        until(lambda: ".ts" in httpx.get(url, timeout=10).text, "a playlist with fragments")
        fragment = next(line for line in httpx.get(url, timeout=10).text.splitlines() if line.endswith(".ts"))
        assert len(httpx.get(f"{rig.nginx.http_url}/hls/{fragment}", timeout=10).content) > 1000
