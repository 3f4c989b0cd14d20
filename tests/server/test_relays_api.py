"""`/v1/relays`: what is asked for wrongly is told, what belongs to others is not there, and no stream key is ever shown."""

import asyncio
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest

from engines.logs import ConsoleFormatter
from server.keyfile import Limits, Scope, add_key
from tests.support.relays import SOURCE, TARGET, WISH, Bench, bench
from tests.support.service import RunningService, running_service

CANARY = "canary-canary-canary"


async def refusal(b: Bench, **changes: Any) -> tuple[int, str, str]:
    wish = {name: value for name, value in (WISH | changes).items() if value is not ...}
    answer = await b.client.post("/v1/relays", json=wish)
    assert CANARY not in answer.text
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


async def keyed(folder: Path, **keys: tuple[Scope, Limits]) -> tuple[Path, dict[str, str]]:
    """A file of API keys, and the keys."""
    path = folder / "api.json"

    def make() -> dict[str, str]:
        return {name: add_key(path, name, [scope], None, limits) for name, (scope, limits) in keys.items()}

    return path, await asyncio.to_thread(make)


@pytest.mark.anyio
async def test_a_relay_is_started_listed_shown_and_removed(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        wish = {"model": "bicubic", "scale": 2, "encoder": "libx264", "bitrate": 3_000_000, "keyframe_seconds": 1}
        answer = await b.client.post("/v1/relays", json=WISH | wish)
        relay = answer.json()
        assert (answer.status_code, answer.headers["Location"]) == (201, f"/v1/relays/{relay['id']}")
        assert {name: relay[name] for name in wish} == wish
        assert (relay["state"], relay["source"], relay["target"]) == ("starting", SOURCE.partition("?")[0], TARGET)
        assert relay["latency_ms"] == {"p50": None, "p95": None, "p99": None}
        assert (relay["fps_in"], relay["fps_out"], relay["drops"], relay["reconnects"]) == (0.0, 0.0, {}, 0)
        options = (await b.worker(1)).options
        assert {name: options[name] for name in wish} == wish
        assert options["source"] == {"url": SOURCE, "address": "127.0.0.1"}
        second = await b.create(target="rtmp://127.0.0.1/upscaled/2")
        assert [entry["id"] for entry in await b.relays()] == [second["id"], relay["id"]]
        page = (await b.client.get("/v1/relays?limit=1")).json()
        assert [entry["id"] for entry in page["relays"]] == [second["id"]] == [page["next"]]
        page = (await b.client.get("/v1/relays", params={"cursor": page["next"]})).json()
        assert ([entry["id"] for entry in page["relays"]], page["next"]) == ([relay["id"]], None)
        assert (await b.client.delete(f"/v1/relays/{relay['id']}")).status_code == 204
        assert (await b.client.delete(f"/v1/relays/{relay['id']}")).status_code == 404


@pytest.mark.anyio
async def test_what_is_asked_for_wrongly_is_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for changes, code, told in (
            ({"source": ...}, "invalid", "source"),
            ({"target": ...}, "invalid", "target"),
            ({"source": [SOURCE]}, "invalid", "source"),
            ({"source": {"url": SOURCE}}, "invalid", "source"),
            ({"target": None}, "invalid", "target"),
            ({"traget": TARGET}, "invalid", "traget"),
            ({"scale": 5}, "invalid", "scale is '5'"),
            ({"bitrate": 7}, "invalid", "bitrate is '7'"),
            ({"keyframe_seconds": 0}, "invalid", "keyframe_seconds"),
            ({"model": "none-such"}, "unknown_model", "xlsr"),
            ({"encoder": "libsvtav1"}, "encoder", "h264_nvenc"),
            ({"source": "file:///etc/passwd"}, "target_denied", "rtmps"),
            ({"target": "rtmp://127.0.0.1/upscaled/../cam"}, "invalid", "target"),
            ({"target": "rtmp://127.1/upscaled/cam"}, "target_denied", "target"),
            ({"target": f"rtmp://evil.example/app/cam?key={CANARY}"}, "target_denied", "FOURFOLD_RELAY_TARGETS"),
            ({"source": f"rtmp://me:{CANARY}@evil.example/app/cam"}, "target_denied", "FOURFOLD_RELAY_SOURCES"),
            ({"source": f"rtmp://me:{CANARY}@evil.example/a b?key={CANARY}"}, "invalid", "source"),
        ):
            status, *found = await refusal(b, **changes)
            assert (found[0], told in found[1]) == (code, True), (changes, status, found)
        answer = await b.client.post("/v1/relays", content=b"no JSON", headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
        assert (b.workers, await b.relays()) == ([], [])


@pytest.mark.anyio
async def test_nothing_is_connected_to_that_is_denied(tmp_path: Path) -> None:
    seen: list[object] = []
    canary = await asyncio.start_server(lambda *peer: seen.append(peer), "127.0.0.1", 0)
    port = canary.sockets[0].getsockname()[1]
    async with canary, bench(tmp_path) as b:
        for host in ("127.0.0.1", "127.1", "0x7f000001", "2130706433", "localhost", "[::1]", "[::ffff:127.0.0.1]"):
            for side in ("source", "target"):
                assert (await refusal(b, **{side: f"rtmp://{host}:{port}/app/cam"}))[:2] == (422, "target_denied")
        assert (b.workers, seen) == ([], [])


@pytest.mark.anyio
async def test_two_relays_do_not_publish_to_one_target(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        relay = await b.create()
        assert (await refusal(b))[:2] == (409, "stream_busy")
        assert (await b.hook("publish")).status_code == 409  # its relay would publish there, too
        assert len(b.workers) == 1
        await b.client.delete(f"/v1/relays/{relay['id']}")
        assert (await b.hook("publish")).status_code == 204


@pytest.mark.anyio
async def test_someone_else_s_relay_is_not_there(tmp_path: Path) -> None:
    path, keys = await keyed(tmp_path, ann=("relays", Limits()), bob=("relays", Limits()), eve=("streams", Limits()))
    async with bench(tmp_path, keys["ann"], api_keys_file=path) as b:
        relay = await b.create()
        b.client.headers["Authorization"] = f"Bearer {keys['bob']}"
        assert await b.relays() == []
        for method in ("GET", "DELETE"):
            answer = await b.client.request(method, f"/v1/relays/{relay['id']}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert (await b.client.get("/v1/relays", params={"cursor": relay["id"]})).json()["relays"] == []
        b.client.headers["Authorization"] = f"Bearer {keys['eve']}"
        for method in ("GET", "POST"):
            assert (await b.client.request(method, "/v1/relays", json=WISH)).status_code == 403
        assert b.workers[0].heard == []


@pytest.mark.anyio
async def test_one_relay_over_the_quota_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    limits = Limits(streams=1, pixels=1000)
    path, keys = await keyed(tmp_path, ann=("relays", limits), bob=("relays", Limits()))
    async with bench(tmp_path, keys["ann"], api_keys_file=path, max_relays_per_key=2) as b:
        relay = await b.create()
        worker = await b.worker(1)
        assert worker.options["pixels"] == 1000
        await worker.run()
        assert (await refusal(b, target="rtmp://127.0.0.1/upscaled/2"))[:2] == (429, "quota")
        await worker.frames(5)
        await b.relay(relay["id"], lambda relay: relay["frames"]["delivered"] == 6 and relay["state"] == "running")
        b.client.headers["Authorization"] = f"Bearer {keys['bob']}"
        for number in range(3, 5):
            await b.create(target=f"rtmp://127.0.0.1/upscaled/{number}")
        assert (await refusal(b, target="rtmp://127.0.0.1/upscaled/5"))[:2] == (429, "quota")
        assert b.workers[0].heard == []


@pytest.mark.anyio
async def test_stream_keys_show_up_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source = f"rtmp://me:{CANARY}@127.0.0.1/live/cam?key={CANARY}"
    async with bench(tmp_path) as b:
        relay = await b.create(source=source, target=f"{TARGET}?key={CANARY}")
        worker = await b.worker(1)
        await worker.say("reconnect", side="source", reason="unreachable")
        await worker.say("state", state="holding", reason=f"{source} is gone")
        await worker.finish(1)
        worker = await b.worker(2)
        await worker.say("error", code="unreadable", message=f"{source} cannot be read")
        relay = await b.relay(relay["id"], lambda relay: relay["state"] == "failed")
        assert (await b.hook("publish", "cam2", key=CANARY)).status_code == 204
        assert (await b.hook("publish", f"x?key={CANARY}", key=CANARY)).status_code == 422
        shown = [str(relay), str(await b.relays()), generate_latest(b.service.metrics.registry).decode()]
    lines = [ConsoleFormatter().format(record) for record in caplog.records if record.name.startswith("server")]
    assert any("relay-1" in line for line in lines)
    for text in (*shown, *lines):
        assert CANARY not in text
        assert "token=ff_" not in text


def wait_for(service: RunningService, relay_id: str) -> dict[str, Any]:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        answer = client.get(f"/v1/relays/{relay_id}")
    assert answer.status_code == 200, answer.text
    relay: dict[str, Any] = answer.json()
    return relay


def test_relays_survive_the_end_of_the_service_however_it_comes(tmp_path: Path) -> None:
    with running_service(tmp_path, ready=False) as service, httpx.Client(base_url=service.url, timeout=30) as client:
        relay = client.post("/v1/relays", json={"source": "rtmp://127.0.0.1/live/none", "target": TARGET}).json()
        assert wait_for(service, relay["id"])["state"] in ("starting", "holding")
        workers = service.descendants()
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait(60)
        until_gone(workers)
    with running_service(tmp_path, ready=False) as service, httpx.Client(base_url=service.url, timeout=30) as client:
        again = wait_for(service, relay["id"])
        assert (again["source"], again["target"], again["created"]) == (relay["source"], relay["target"], relay["created"])
        assert client.delete(f"/v1/relays/{relay['id']}").status_code == 204
        assert client.get("/v1/relays").json()["relays"] == []
        assert service.stop() == 0


def until_gone(pids: list[int]) -> None:
    """Until no process of these is left: none outlives the service."""
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
