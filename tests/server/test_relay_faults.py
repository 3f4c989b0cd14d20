"""What goes wrong between RTMP servers, each time beside another relayed stream that must not notice."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from server.media import flv
from server.rtmp_server import free_port
from tests.support.network import Proxy, SilentServer
from tests.support.rig import Rig, running_rig, script, sees, small_clip, tapped, undisturbed
from tests.support.rtmp import RtmpServer, hook_server, nginx_rtmp, player, until

pytestmark = pytest.mark.timeout(600)

PORT = free_port()
"""Where a proxy or a strange server of one test listens, and relays may connect to."""

RECONNECTS = int(os.environ.get("FOURFOLD_TEST_RECONNECTS", "6"))
"""Of the test of many reconnections; a thousand take half an hour."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("faults")
    places = {"relay_sources": f"rtmp://127.0.0.1:{PORT}", "relay_targets": f"rtmp://127.0.0.1:{PORT}"}
    with running_rig(folder, **places) as rig, rig.publishes("bystander", small_clip(folder)):
        rig.shows("bystander", lambda relay: relay["frames"]["delivered"] > 60, "begun")
        yield rig


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtmpServer]:
    """Another RTMP server, where everybody may publish."""
    with hook_server("open") as hooks, nginx_rtmp(tmp_path_factory.mktemp("elsewhere"), hooks.url, "open") as server:
        yield server


@pytest.fixture(autouse=True)
def _others(rig: Rig) -> Iterator[None]:
    """The bystander is well before and after each test, and alone."""
    with undisturbed(rig):
        yield
        for relay in rig.relays():
            if relay["stream"] != "bystander":
                rig.request("DELETE", f"/v1/relays/{relay['id']}")


def rising(stamps: list[int], gap_ms: int) -> bool:
    """Whether stamps rise, and never by more than a gap."""
    return all(0 < later - earlier <= gap_ms for earlier, later in pairwise(stamps))


# -- what is in the stream --------------------------------------------------------------------------------------------


def test_another_size_in_mid_stream_is_followed_at_its_keyframe(rig: Rig) -> None:
    with script(rig.publish_url("size")) as publishing:
        publishing.use(96, 64)
        publishing.pictures(30)
        with rig.plays("size") as playing:
            publishing.use(128, 96)
            publishing.pictures(45)
            until(lambda: (512, 384) in playing.sizes(), "the other size")
            stamps = [picture[0] for picture in playing.pictures]
        assert playing.sizes() == [(384, 256), (512, 384)]
        assert stamps == sorted(set(stamps))
    assert rig.relay("size")["input"]["width"] == 128


def test_sound_that_comes_later_joins_in(rig: Rig) -> None:
    with script(rig.publish_url("late")) as publishing, tapped(rig.play_url("late")) as tap:
        publishing.use()
        publishing.pictures(30)
        until(lambda: len(tap.pictures) > 10, "pictures")
        assert tap.sounds == []
        publishing.pictures(30, sound=True)
        until(lambda: len(tap.sounds) > 10, "sound")


def test_a_stream_that_begins_between_keyframes_waits_for_one(rig: Rig) -> None:
    with script(rig.publish_url("middle")) as publishing:
        publishing.use(keyframe_seconds=1000)
        publishing.fresh = False
        publishing.encoder.encode(publishing.blank(), 0, True)  # the keyframe that nobody gets
        publishing.stamp = 66
        publishing.pictures(10)
        assert rig.relay("middle")["state"] == "starting"
        publishing.picture(keyframe=True)
        publishing.pictures(30)
        rig.has("middle", state="running")


@pytest.mark.parametrize("codec, word", [(b"\x12" + bytes(20), "H.263"), (b"\x1c" + bytes(20), "HEVC")])
def test_another_codec_ends_the_relay_by_name(rig: Rig, codec: bytes, word: str) -> None:
    with script(rig.publish_url("codec")) as publishing:
        publishing.use()
        publishing.pictures(20)
        rig.has("codec", state="running")
        publishing.target.write(flv.tag(flv.TagKind.VIDEO, publishing.stamp, codec))
        relay = rig.has("codec", state="failed")
        assert relay["error"]["code"] == "unsupported" and word in relay["error"]["message"]


@pytest.mark.parametrize(
    "shift",
    [
        lambda stamp: stamp + (1 << 24) - 1300,
        lambda stamp: stamp + (1 << 31) - 1300,
        lambda stamp: (stamp + (1 << 32) - 1300) & 0xFFFFFFFF,
        lambda stamp: stamp + 3_600_000 * (stamp > 1300),
        lambda stamp: stamp + 3_600_000 * (stamp < 1300),
        lambda stamp: stamp - stamp % 132,
    ],
    ids=["2^24", "2^31", "2^32", "hour later", "hour earlier", "duplicates"],
)
def test_time_stamps_of_every_kind_become_time_that_only_rises(rig: Rig, shift: Callable[[int], int]) -> None:
    """Pictures and sound that belong together stay within 40 ms of each other."""
    with script(rig.publish_url("time")) as publishing, tapped(rig.play_url("time")) as tap:
        publishing.use()
        publishing.pictures(60, shift, sound=True)
        until(lambda: len(tap.pictures) > 30 and len(tap.sounds) > 30, "pictures and sound")
        stamps = [stamp for stamp, _ in tap.pictures]
        assert rising(stamps, 1000)
        for stamp in stamps[5:25]:
            assert min(abs(sound - stamp) for sound in tap.sounds) <= 40


# -- publishers -------------------------------------------------------------------------------------------------------


def test_a_frozen_publisher_is_held_and_resumes(rig: Rig) -> None:
    with rig.publishes("frozen", small_clip(rig.folder, "frozen")) as publishing, rig.plays("frozen", 5) as playing:
        publishing.freeze()
        rig.has("frozen", state="holding")
        sees(playing, len(playing.pictures) + 20)
        publishing.thaw()
        rig.has("frozen", state="running")
        sees(playing, len(playing.pictures) + 20)
        stamps = [round(1000 * picture[0]) for picture in playing.pictures]
        assert rising(stamps, 2000)


def test_a_killed_publisher_is_held_and_another_one_with_another_size_goes_on(rig: Rig) -> None:
    small, large = small_clip(rig.folder, "small"), small_clip(rig.folder, "large", width=128, height=96)
    with rig.publishes("again", small) as publishing, rig.plays("again", 5) as playing:
        publishing.kill()
        first = rig.has("again", state="holding")["id"]
        with rig.publishes("again", large):
            until(lambda: (512, 384) in playing.sizes(), "the other size")
            sees(playing, len(playing.pictures) + 20)
            relay = rig.has("again", state="running", id=first)
            stamps = [round(1000 * picture[0]) for picture in playing.pictures]
        assert relay["input"]["width"] == 128
        assert rising(stamps, 2000)


def test_a_second_publisher_of_the_same_stream_is_refused(rig: Rig) -> None:
    clip = small_clip(rig.folder, "mine")
    with rig.publishes("mine", clip):
        before = rig.has("mine", state="running")
        with rig.publishes("mine", small_clip(rig.folder, "other", width=128, height=96)) as second:
            until(lambda: second.ended, "the second one is sent away")
        after = rig.has("mine", state="running")
        assert (after["id"], after["input"]) == (before["id"], before["input"])
        assert rig.service.metrics()['fourfold_rejected_total{reason="stream_busy"}'] >= 1


def test_a_hook_that_no_stream_follows_frees_its_place(rig: Rig) -> None:
    secret = (rig.folder / "hook-secret").read_text()
    form = {"call": "publish", "app": "live", "name": "ghost", "addr": "127.0.0.1", "clientid": "9"}
    assert rig.request("POST", "/hooks/rtmp/publish?secret=forged", data=form).status_code in (401, 403)
    assert rig.relay("ghost") == {}
    assert rig.request("POST", f"/hooks/rtmp/publish?secret={secret}", data=form).status_code == 204
    assert rig.request("POST", f"/hooks/rtmp/publish?secret={secret}", data=form | {"clientid": "10"}).status_code == 409
    assert rig.relay("ghost")["state"] == "starting"
    rig.has("ghost", state="ended")
    assert rig.request("POST", f"/hooks/rtmp/publish_done?secret={secret}", data=form | {"call": "publish_done"}).is_success


def test_many_reconnections_leave_nothing_behind(rig: Rig) -> None:
    clip = small_clip(rig.folder, "many")

    def reconnect() -> None:
        with rig.publishes("many", clip):
            rig.has("many", state="running")
        rig.has("many", state="holding")

    reconnect()
    reconnect()
    relay, before = rig.relay("many"), held_by(rig)
    for _ in range(RECONNECTS):
        reconnect()
    after = held_by(rig)
    assert after[0] <= before[0] and after[1] <= before[1]
    assert rig.relay("many")["id"] == relay["id"]
    assert rig.relay("many")["frames"]["delivered"] > relay["frames"]["delivered"]


def held_by(rig: Rig) -> tuple[int, int]:
    """Descriptors and threads of all processes of the service, once they stay the same for a moment."""

    def count() -> tuple[int, int]:
        found = [0, 0]
        for pid in [rig.service.pid, *rig.service.descendants()]:
            for place, name in enumerate(("fd", "task")):
                try:
                    found[place] += len(list(Path(f"/proc/{pid}/{name}").iterdir()))
                except OSError:  # it ended meanwhile
                    continue
        return found[0], found[1]

    seen = [count()]

    def settled() -> bool:
        seen.append(count())
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    until(settled, "the service is at rest")
    return seen[-1]


# -- targets and networks ---------------------------------------------------------------------------------------------


def test_a_target_that_never_shakes_hands_is_given_up_again_and_again(rig: Rig) -> None:
    with SilentServer(PORT) as target, rig.publishes("mute", small_clip(rig.folder, "mute")):
        rig.has("mute", state="running")
        relay = rig.create(rig.publish_url("mute"), f"rtmp://127.0.0.1:{target.port}/app/stream")
        rig.shows(relay, lambda relay: relay["reconnects"] >= 2, "two reconnections")
        assert target.connections >= 2
        assert rig.request("GET", "/health/live").status_code == 200
        assert rig.relay(relay)["drops"]["target"] > 0


def test_a_target_that_stops_reading_loses_pictures_and_is_connected_again(rig: Rig, elsewhere: RtmpServer) -> None:
    with Proxy(elsewhere.rtmp_port, PORT) as proxy, rig.publishes("slow", small_clip(rig.folder, "slow")):
        rig.has("slow", state="running")
        relay = rig.create(rig.publish_url("slow"), f"rtmp://127.0.0.1:{proxy.port}/live/slowed", bitrate=20_000_000)
        rig.shows(relay, lambda relay: relay["frames"]["delivered"] > 20, "20 pictures delivered")
        proxy.stall()
        rig.shows(relay, lambda relay: relay["drops"].get("target", 0) > 20 and relay["reconnects"] > 0, "pictures lost")
        proxy.cut()
        proxy.resume()
        before = rig.relay(relay)["frames"]["delivered"]
        rig.shows(relay, lambda relay: relay["frames"]["delivered"] > before + 20, "pictures delivered again")


def test_a_target_that_is_down_is_reached_when_it_comes_up(rig: Rig, elsewhere: RtmpServer) -> None:
    with Proxy(elsewhere.rtmp_port, PORT) as proxy, rig.publishes("down", small_clip(rig.folder, "down")):
        rig.has("down", state="running")
        proxy.down()
        relay = rig.create(rig.publish_url("down"), f"rtmp://127.0.0.1:{proxy.port}/live/downed")
        rig.shows(relay, lambda relay: relay["reconnects"] >= 2 and relay["frames"]["in"] > 20, "two reconnections")
        proxy.up()
        rig.shows(relay, lambda relay: relay["frames"]["delivered"] > 20, "pictures delivered")
        with player(f"{elsewhere.rtmp_url}/live/downed", 8.0) as playing:
            sees(playing, 10)


def test_a_slow_network_before_the_source_leaves_the_relay_at_the_present(rig: Rig) -> None:
    with Proxy(rig.nginx.rtmp_port, PORT) as proxy, rig.publishes("far", small_clip(rig.folder, "far")):
        rig.has("far", state="running")
        source = f"rtmp://127.0.0.1:{proxy.port}/live/far"
        relay = rig.create(source, rig.play_url("near"))
        rig.has(relay, state="running")
        proxy.stall()
        rig.has(relay, state="holding")
        proxy.resume()
        rig.has(relay, state="running")
        proxy.delay_seconds = 0.3
        before = rig.relay(relay)["frames"]["delivered"]
        after = rig.shows(relay, lambda relay: relay["frames"]["delivered"] > before + 20, "pictures delivered")
        assert after["frames"]["under_way"] <= 64
        proxy.delay_seconds, proxy.bytes_per_second = 0.0, 2000
        rig.shows(relay, lambda relay: relay["fps_in"] < 8, "few pictures")
        proxy.bytes_per_second = None
        after = rig.shows(relay, lambda relay: relay["fps_in"] > 12 and relay["fps_out"] > 12, "all pictures again")
        assert after["frames"]["under_way"] <= 64


def test_a_worker_that_is_killed_is_replaced(rig: Rig) -> None:
    clip = small_clip(rig.folder, "killed")
    with rig.publishes("killed", clip):
        rig.has("killed", state="running")
        others = set(workers(rig))
        with rig.publishes("victim", clip):
            rig.has("victim", state="running")
            (victim,) = set(workers(rig)) - others
            os.kill(victim, signal.SIGKILL)
            rig.shows("victim", lambda relay: relay["state"] == "running" and relay["reconnects"] >= 1, "a new worker")


def workers(rig: Rig) -> list[int]:
    """Processes of relays: those that have a process that publishes."""
    found = []
    for pid in rig.service.descendants():
        with suppress(OSError):  # it ended meanwhile
            if b"server.streams.egress" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]))
    return found


def test_what_is_not_allowed_is_never_connected_to(rig: Rig) -> None:
    with SilentServer() as forbidden:
        for host in ("127.1", "[::1]", "0x7f000001", "169.254.169.254", "localhost"):
            wish = {"source": f"rtmp://{host}:{forbidden.port}/live/a", "target": rig.play_url("b")}
            answer = rig.request("POST", "/v1/relays", json=wish)
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "target_denied"), host
        answer = rig.request("POST", "/v1/relays", json={"source": "file:///etc/passwd", "target": rig.play_url("b")})
        assert answer.status_code == 422
        assert forbidden.connections == 0


def test_the_rtmp_server_itself_is_killed_and_comes_back(tmp_path: Path) -> None:
    """Relays come back by themselves: the one that a publisher started, once it publishes again."""
    with running_rig(tmp_path) as rig:
        clip = small_clip(tmp_path)
        with rig.publishes("game", clip):
            rig.has("game", state="running")
            rig.nginx.kill()
            rig.has("game", state="holding")
            rig.nginx.start()
        with rig.publishes("game", clip), rig.plays("game", 20):
            assert rig.has("game", state="running")["reconnects"] >= 1
