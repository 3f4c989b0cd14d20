"""What nginx-rtmp asks: who may publish and play, and what a publisher finds that comes, leaves and comes back."""

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from server.access import WRONG_KEYS
from server.keyfile import Limits, add_key
from server.stream_keys import add_stream_key
from tests.support.relays import Bench, bench, until

pytestmark = pytest.mark.anyio

OPEN = 204


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for seconds here."""
    monkeypatch.setattr("server.relays.TICK_SECONDS", 0.02)


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def live(b: Bench) -> None:
    """Somebody publishes, and frames come."""
    assert (await b.hook("publish")).status_code == OPEN
    await (await b.worker(1)).run()
    await state(b, "running")


async def state(b: Bench, expected: str) -> None:
    (relay,) = await b.relays()
    await b.relay(relay["id"], lambda relay: relay["state"] == expected)


def token(b: Bench) -> str:
    return parse_qs(urlsplit(b.workers[0].options["target"]["url"]).query)["token"][0]


async def test_a_publisher_gets_a_relay(tmp_path: Path) -> None:
    async with bench(tmp_path, model="xlsr", rtmp_server="rtmp://127.0.0.1:1999", hold_seconds=7) as b:
        await live(b)
        (relay,) = await b.relays()
        assert (relay["stream"], relay["source"], relay["target"], relay["model"]) == (
            *("cam", "rtmp://127.0.0.1:1999/live/cam", "rtmp://127.0.0.1:1999/upscaled/cam", "xlsr"),
        )
        options = b.workers[0].options
        assert options["source"]["url"] == f"{relay['source']}?token={token(b)}"
        assert (options["source"]["address"], options["hold_seconds"]) == ("127.0.0.1", 7)
        assert b.metric("stream_fps", stream="live/cam", direction="in") >= 0


async def test_a_second_publisher_is_refused_and_the_first_unharmed(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert (await b.hook("publish")).status_code == OPEN
        assert told(await b.hook("publish", client="2")) == (409, "stream_busy")  # nothing came of the first one yet
        await (await b.worker(1)).run()
        await state(b, "running")
        assert told(await b.hook("publish", client="2")) == (409, "stream_busy")
        assert (await b.hook("publish_done", client="2")).status_code == OPEN  # nginx tells of those that it refused, too
        assert told(await b.hook("publish", client="3")) == (409, "stream_busy")
        await b.workers[0].frames(5)
        (relay,) = await b.relays()
        await b.relay(relay["id"], lambda relay: relay["frames"]["delivered"] == 6)
        assert (len(b.workers), b.workers[0].heard) == (1, [])
        assert b.metric("rejected_total", reason="stream_busy") == 3


async def test_who_comes_back_while_the_last_frame_is_shown_goes_on(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await live(b)
        await b.workers[0].say("state", state="holding", reason="ended")
        await state(b, "holding")
        assert (await b.hook("publish", client="2")).status_code == OPEN
        assert told(await b.hook("publish", client="3")) == (409, "stream_busy")
        await b.workers[0].say("state", state="running", reason=None)
        await state(b, "running")
        assert (len(b.workers), len(await b.relays())) == (1, 1)


async def test_who_comes_back_at_once_goes_on(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await live(b)
        assert (await b.hook("publish_done")).status_code == OPEN  # the worker has seen nothing yet
        assert (await b.hook("publish", client="2")).status_code == OPEN
        assert (await b.hook("publish_done", client="1")).status_code == OPEN  # late, and of the one before
        assert told(await b.hook("publish", client="3")) == (409, "stream_busy")
        assert (len(b.workers), b.workers[0].heard) == (1, [])


async def test_who_comes_back_while_the_relay_is_ending_gets_another_worker(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await live(b)
        await b.workers[0].say("state", state="holding", reason="ended")
        await state(b, "holding")
        assert (await b.hook("publish", client="2")).status_code == OPEN
        await b.workers[0].say("ended", reason="the source has ended")  # it had not heard
        await (await b.worker(2)).run()
        await state(b, "running")
        assert len(await b.relays()) == 1


async def test_a_publisher_waits_until_its_relay_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path) as b:
        monkeypatch.setattr("server.relays.LISTEN_SECONDS", 60)
        publishing = asyncio.create_task(b.hook("publish"))
        source = (await b.worker(1)).options["source"]["url"]
        token = source.partition("token=")[2]
        assert (await b.hook("play", name="other", token=token)).status_code == OPEN
        await asyncio.sleep(0.1)
        assert not publishing.done()
        assert (await b.hook("play", token=token)).status_code == OPEN
        assert (await publishing).status_code == OPEN


async def test_who_lost_the_rtmp_server_comes_back(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await live(b)
        await b.workers[0].say("reconnect", side="source", reason="unreachable")
        (relay,) = await b.relays()
        await b.relay(relay["id"], lambda relay: relay["reconnects"] == 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("server.relays.START_SECONDS", 0.0)
            assert (await b.hook("publish", client="2")).status_code == OPEN
        assert len(await b.relays()) == 1


async def test_a_new_publisher_after_the_end_gets_a_new_relay(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await live(b)
        await b.workers[0].say("ended", reason="ended")
        await until(lambda: b.metric("streams_active", kind="relay") == 0)
        assert (await b.hook("publish", client="2")).status_code == OPEN
        await b.worker(2)
        assert [relay["state"] for relay in await b.relays()] == ["starting", "ended"]


async def test_a_hook_that_no_stream_follows_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.relays.START_SECONDS", 0.1)
    async with bench(tmp_path) as b:
        assert (await b.hook("publish")).status_code == OPEN
        worker = await b.worker(1)
        await worker.say("state", state="starting", reason=None)
        await state(b, "ended")
        assert (await b.relays())[0]["reason"] == "nobody published it"
        assert (worker.heard, worker.ended) == ([{"type": "stop"}], True)
        assert b.metric("streams_active", kind="relay") == 0
        assert b.service.workers.running == []


async def test_a_slow_start_is_no_missing_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path) as b:
        assert (await b.hook("publish")).status_code == OPEN
        worker = await b.worker(1)
        await worker.say("incoming")
        await worker.say("source", width=32, height=24, fps=30.0, codec="h264", audio=True, deinterlaced=False)
        (relay,) = await b.relays()
        await b.relay(relay["id"], lambda relay: bool(relay["input"]))
        monkeypatch.setattr("server.relays.START_SECONDS", 0.0)
        await asyncio.sleep(0.2)  # some ticks
        assert (await b.relays())[0]["state"] == "starting"


async def test_notices_of_unknown_streams_are_ignored(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for _ in range(3):
            assert (await b.hook("publish_done", "unknown")).status_code == OPEN
        assert (await b.relays(), b.workers) == ([], [])


ODD_NAMES = (
    *("", "..", "../../etc/passwd", "a/b", "a b", "$(id)", "`id`", "a;id", "a|b", "cam\r\nX: y", "cam\0", "ü", "a" * 65, "a.b"),
    "%2e%2e",
)


async def test_odd_names_are_refused(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for call in ("publish", "publish_done", "play"):
            for name in ODD_NAMES:
                assert told(await b.hook(call, name)) == (422, "invalid"), name
        assert (b.workers, await b.relays()) == ([], [])


FORGED = (
    *(b"", b"call=publish", b"call=play&app=live&name=cam", b"call=publish&app=other&name=cam", b"\xff\xfe"),
    *(b"call=publish&app=live&name=cam&name=other", b"call=publish&app=upscaled&name=cam&app=live"),
    *(b"call=publish&app=live&name=cam&key=a&key=b", b"call=publish&app=live&name=cam&clientid=1&clientid=2"),
    b"&".join(b"a%d=1" % number for number in range(100)),
)


async def test_forged_bodies_are_refused(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for body in FORGED:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await b.client.post("/hooks/rtmp/publish", content=body, headers=headers)
            assert told(answer) == (422, "invalid"), body
        assert (b.workers, await b.relays()) == ([], [])


async def test_other_bodies_are_refused(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert told(await b.client.post("/hooks/rtmp/publish", json={"call": "publish"})) == (415, "unsupported_type")
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert told(await b.client.post("/hooks/rtmp/publish", content=b"a" * 70_000, headers=headers)) == (413, "too_large")


async def test_only_the_service_publishes_upscaled_streams(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert told(await b.hook("publish", app="upscaled")) == (403, "forbidden")
        assert told(await b.hook("publish", app="upscaled", token="ff_wrong")) == (403, "forbidden")
        await live(b)
        assert told(await b.hook("publish", app="upscaled", token="")) == (403, "forbidden")
        assert (await b.hook("publish", app="upscaled", token=token(b))).status_code == OPEN
        assert (await b.hook("publish_done", app="upscaled")).status_code == OPEN
        assert len(b.workers) == 1


async def test_the_token_is_new_for_each_process(tmp_path: Path) -> None:
    tokens = []
    for number in range(2):
        async with bench(tmp_path / str(number)) as b:
            await live(b)
            tokens.append(token(b))
    assert tokens[0] != tokens[1]


async def test_what_somebody_asks_for_gets_no_token_for_playing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.create()
        worker = await b.worker(1)
        assert "token=" not in worker.options["source"]["url"]
        assert "token=" in worker.options["target"]["url"]


async def test_publishing_and_playing_need_stream_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    publish, play = [await asyncio.to_thread(add_stream_key, keys, "cam", purpose, None) for purpose in ("publish", "play")]
    async with bench(tmp_path, stream_keys_file=keys) as b:
        assert told(await b.hook("publish")) == (403, "forbidden")
        assert told(await b.hook("publish", key=play)) == (403, "forbidden")
        assert told(await b.hook("publish", "other", key=publish)) == (403, "forbidden")
        assert b.workers == []
        assert (await b.hook("publish", key=publish)).status_code == OPEN
        await b.worker(1)
        for app in ("live", "upscaled"):
            assert told(await b.hook("play", app=app)) == (403, "forbidden")
            assert (await b.hook("play", app=app, key=play)).status_code == OPEN
            assert (await b.hook("play", app=app, token=token(b))).status_code == OPEN
            assert (await b.hook("play", "other", app=app)).status_code == OPEN
        assert publish not in (await b.client.get("/v1/relays")).text


async def test_guessing_stream_keys_is_slowed_for_the_guesser_alone(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key = await asyncio.to_thread(add_stream_key, keys, "cam", "publish", None)
    async with bench(tmp_path, stream_keys_file=keys) as b:
        codes = [told(await b.hook("publish", key=f"wrong{number}"))[0] for number in range(WRONG_KEYS + 1)]
        assert codes == [403] * WRONG_KEYS + [429]
        assert (await b.hook("publish", key=key, addr="192.0.2.8")).status_code == OPEN


async def test_hooks_have_a_secret_of_their_own(tmp_path: Path) -> None:
    secret, keys = tmp_path / "secret", tmp_path / "api.json"

    def prepare() -> str:
        secret.write_text("very secret\n")
        return add_key(keys, "root", ["admin"], None, Limits())

    key = await asyncio.to_thread(prepare)
    async with bench(tmp_path, key, hook_secret_file=secret, api_keys_file=keys) as b:
        for query in ("", "?secret=", "?secret=wrong", "?secret=very", f"?secret={key}"):
            for call in ("publish", "publish_done", "play"):
                answer = await b.hook(call, query=query)
                assert told(answer) == (401, "unauthorized") or told(answer) == (429, "rate")
        assert b.workers == []
        b.client.headers.pop("Authorization")
        transport = httpx.ASGITransport(b.client._transport.app, client=("192.0.2.3", 1))  # type: ignore[attr-defined]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            form = {"call": "publish", "app": "live", "name": "cam"}
            assert (await client.post("/hooks/rtmp/publish?secret=very+secret", data=form)).status_code == OPEN
            assert (await client.get("/v1/relays")).status_code == 401


@pytest.mark.parametrize("settings", [{"host": "192.0.2.1", "allow_anonymous": True}, {"trusted_proxies": ["127.0.0.1"]}])
async def test_without_a_secret_only_this_machine_is_heard(tmp_path: Path, settings: dict[str, object]) -> None:
    async with bench(tmp_path, **settings) as b:
        assert told(await b.hook("publish")) == (401, "unauthorized")


async def test_who_may_administrate_sees_streams_and_others_do_not(tmp_path: Path) -> None:
    keys = tmp_path / "api.json"

    def prepare() -> tuple[str, str]:
        return add_key(keys, "root", ["admin"], None, Limits()), add_key(keys, "ann", ["relays"], None, Limits())

    root, ann = await asyncio.to_thread(prepare)
    async with bench(tmp_path, root, api_keys_file=keys) as b:
        assert (await b.hook("publish")).status_code == OPEN
        (relay,) = await b.relays()
        b.client.headers["Authorization"] = f"Bearer {ann}"
        assert await b.relays() == []
        for method in ("GET", "DELETE"):
            assert (await b.client.request(method, f"/v1/relays/{relay['id']}")).status_code == 404
        b.client.headers["Authorization"] = f"Bearer {root}"
        assert (await b.client.delete(f"/v1/relays/{relay['id']}")).status_code == 204
