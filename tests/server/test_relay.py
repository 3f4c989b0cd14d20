"""Live relays with real RTMP servers: what viewers get, and what the service says of it."""

import os
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from tests.support.network import Proxy, certificate
from tests.support.rig import PATIENT, SILENCE, Rig, running_rig, sees, small_clip, tapped
from tests.support.rtmp import audio_hashes, hook_server, nginx_rtmp, node_media_server, player, probe, publisher, until
from tests.support.service import engine_pid, running_service

pytestmark = pytest.mark.timeout(600)

HEAVY = {"model": "swift-srgan", "precision": "fp32", "live_budget_ms": 250, "frame_queue": 8}
"""A network that is soon too much, in one precision: to try several takes minutes on a busy machine."""

UNDER_WAY = 64
"""Frames of one relay that may be between its two ends: in the queue, in slots, and a second of them towards the target."""


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


def test_viewers_get_what_the_service_says_it_delivered(tmp_path: Path) -> None:
    """In calm: all that came but what came before the target was there."""
    with running_rig(tmp_path, hold_seconds=2) as rig:
        (relay,) = watched_to_the_end(rig, ["calm"], small_clip(tmp_path), 60)
        assert set(relay["drops"]) <= {"burst", "target"}
        assert relay["frames"]["held"] > 5


def test_under_overload_streams_step_down_and_each_drop_is_counted(tmp_path: Path) -> None:
    """More than the engine can do: what viewers got, what the service says and what the metrics say is the same."""
    clip = small_clip(tmp_path, width=160, height=90, rate=30, frames=150)
    names = ["heavy-1", "heavy-2", "heavy-3"]
    with running_rig(tmp_path, hold_seconds=2, **HEAVY) as rig:
        relays = watched_to_the_end(rig, names, clip, 150, lambda: switches(rig, "overload") >= len(names))
        assert sum("overload" in line and " is upscaled by " in line for line in rig.service.log) >= len(names)
    assert all({"late", "queue_full"} & set(relay["drops"]) for relay in relays)


def test_a_stream_comes_up_again_once_the_engine_has_room(tmp_path: Path) -> None:
    """Its engine runs for a tenth of the time only, and then freely again; the ladder goes down and up, the viewer stays."""
    clip = small_clip(tmp_path, width=64, height=48)
    with running_rig(tmp_path, **HEAVY) as rig, rig.publishes("steps", clip):
        rig.shows("steps", lambda relay: relay["engine"] != "swscale" and relay["fps_out"] > 12, "all its pictures")
        with rig.plays("steps") as playing:
            with throttled(engine_pid(rig.service)):
                rig.shows("steps", lambda relay: relay["model"] != "swift-srgan" and relay["fps_out"] > 10, "a lighter model")
            relay = rig.has("steps", model="swift-srgan")
            assert switches(rig, "overload") == switches(rig, "recovered") >= 1
            assert relay["frames"]["under_way"] <= UNDER_WAY
            sees(playing, len(playing.pictures) + 20)
            stamps = [picture[0] for picture in list(playing.pictures)]
        assert stamps == sorted(set(stamps))


def switches(rig: Rig, reason: str) -> float:
    """How often streams went to another model for a reason, as the metrics say it."""
    metrics = rig.service.metrics().items()
    return sum(value for name, value in metrics if "model_switches_total{" in name and f'reason="{reason}"' in name)


@contextmanager
def throttled(pid: int | None) -> Iterator[None]:
    """A process gets a tenth of the time."""
    assert pid is not None
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(0.27)
            os.kill(pid, signal.SIGCONT)
            over.wait(0.03)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_an_interlaced_stream_is_deinterlaced_and_said_to_be(rig: Rig) -> None:
    options = {"preset": "ultrafast", "tune": "zerolatency", "g": "15"}
    with rig.publishes("fields", small_clip(rig.folder, "fields", interlaced=True, options=options)), rig.plays("fields", 20):
        assert rig.relay("fields")["input"]["deinterlaced"] is True


def test_an_encrypted_target_has_to_prove_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trusted").mkdir()
    (tmp_path / "stranger").mkdir()
    cert, key = certificate(tmp_path / "trusted", "DNS:localhost")
    contexts = [ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2)]
    contexts[0].load_cert_chain(cert, key)
    contexts[1].load_cert_chain(*certificate(tmp_path / "stranger", "DNS:localhost"))
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with ExitStack() as stack:
        hooks = stack.enter_context(hook_server("open"))
        target = stack.enter_context(nginx_rtmp(tmp_path / "target", hooks.url, "open"))
        trusted, stranger = (stack.enter_context(Proxy(target.rtmp_port, context=context)) for context in contexts)
        urls = [f"rtmps://localhost:{proxy.port}" for proxy in (trusted, stranger)]
        rig = stack.enter_context(running_rig(tmp_path / "rig", relay_targets=urls))
        stack.enter_context(rig.publishes("cam", small_clip(tmp_path)))
        rig.has("cam", state="running")
        right, wrong = (rig.create(rig.publish_url("cam"), f"{url}/live/{number}") for number, url in enumerate(urls))
        rig.shows(right, lambda relay: relay["frames"]["delivered"] > 20, "20 pictures delivered")
        refused = rig.shows(wrong, lambda relay: relay["reconnects"] >= 2, "two reconnections")
        assert refused["frames"]["delivered"] == 0
        with player(f"{target.rtmp_url}/live/0", SILENCE) as playing:
            sees(playing, 10)


def watched_to_the_end(
    rig: Rig, names: list[str], clip: Path, pictures: int, happened: Callable[[], bool] = lambda: True
) -> list[dict[str, Any]]:
    """Publishes a clip under all the names until so many pictures came out and something happened; how the relays ended.

    Meanwhile, and at the end, the figures of relays, metrics and viewers agree.
    """
    with ExitStack() as stack:
        taps = [stack.enter_context(tapped(rig.play_url(name))) for name in names]
        publishers = [stack.enter_context(rig.publishes(name, clip)) for name in names]
        until(lambda: all(len(tap.pictures) >= pictures for tap in taps) and happened(), f"{pictures} pictures of each", 240)
        for name in names:
            assert rig.relay(name)["frames"]["under_way"] <= UNDER_WAY
        for publishing in publishers:
            publishing.stop()
        relays = [rig.has(name, state="ended") for name in names]
        for relay, tap in zip(relays, taps, strict=True):
            sent = relay["frames"]["delivered"] + relay["frames"]["held"]
            until(lambda tap=tap, sent=sent: len(tap.pictures) >= sent, f"{sent} pictures")
    after = rig.service.metrics()
    for relay, tap in zip(relays, taps, strict=True):
        frames = relay["frames"]
        assert len(tap.pictures) == frames["delivered"] + frames["held"]
        assert frames["in"] == frames["delivered"] + frames["dropped"] + frames["failed"] and not frames["under_way"]
        assert frames["dropped"] == sum(relay["drops"].values())
        assert [stamp for stamp, _ in tap.pictures] == sorted({stamp for stamp, _ in tap.pictures})
    for outcome in ("delivered", "dropped"):
        counted = after.get(f'fourfold_frames_total{{kind="relay",outcome="{outcome}"}}', 0)
        assert sum(relay["frames"][outcome] for relay in relays) == counted
    for reason in {reason for relay in relays for reason in relay["drops"]}:
        counted = after[f'fourfold_frames_dropped_total{{kind="relay",reason="{reason}"}}']
        assert sum(relay["drops"].get(reason, 0) for relay in relays) == counted
    return relays


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
