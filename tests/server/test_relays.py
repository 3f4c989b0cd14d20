"""Relays with workers that a test speaks for: what is shown and counted, whatever a worker says, and however it ends."""

import asyncio
import logging
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from server.database import DatabaseError
from server.errors import ServiceError
from server.load import WINDOW, Load, processor_seconds
from server.metrics import NAMED_STREAMS, Metrics
from server.relay import Relay
from server.relay_store import Plan, RelayRecord, RelayStore
from server.relays import MAX_CRASHES
from tests.support.relays import SOURCE, Bench, bench, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for seconds here."""
    monkeypatch.setattr("server.relays.TICK_SECONDS", 0.02)
    monkeypatch.setattr("server.relays.BACKOFF_SECONDS", 0.01)


async def running(b: Bench, **changes: Any) -> dict[str, Any]:
    """A relay whose frames come."""
    relay = await b.create(**changes)
    await (await b.worker(len(b.workers) or 1)).run()
    return await b.relay(relay["id"], lambda relay: bool(relay["frames"]["delivered"]))


async def test_what_a_worker_says_is_shown_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with bench(tmp_path) as b:
        relay = await running(b)
        worker = b.workers[0]
        assert relay["state"] == "running"
        source = {"width": 32, "height": 24, "fps": 30.0, "codec": "h264", "audio": True, "deinterlaced": False}
        assert relay["input"] == source
        assert relay["output"] == {"width": 128, "height": 96}
        assert (relay["encoder"], relay["engine"], relay["precision"]) == ("libx264", "openvino", "fp32")
        await worker.frames(100, 0.3, **{"in": 110}, dropped={"late": 5, "target": 2}, failed=1, under_way=2, held=7)
        await worker.say("model", model="bicubic", reason="overload", engine="swscale", precision="int16")
        await worker.say("reconnect", side="target", reason="target_down")
        await worker.say("state", state="holding", reason="timeout")
        relay = await b.relay(relay["id"], lambda relay: relay["state"] == "holding" and relay["latency_ms"]["p50"])
        assert relay["frames"] == {"in": 111, "delivered": 101, "dropped": 7, "failed": 1, "held": 7, "under_way": 2}
        assert (relay["drops"], relay["reconnects"], relay["model"]) == ({"late": 5, "target": 2}, 1, "bicubic")
        assert (relay["engine"], relay["precision"]) == ("swscale", "int16")
        relay = await b.relay(relay["id"], lambda relay: relay["latency_ms"]["p99"] == 300)
        assert relay["latency_ms"]["p50"] == 300
        assert b.metric("frames_total", kind="relay", outcome="delivered") == 101
        assert b.metric("frames_total", kind="relay", outcome="failed") == 1
        assert b.metric("frames_dropped_total", kind="relay", reason="target") == 2
        assert b.metric("deadline_misses_total", kind="relay") == 100
        assert b.metric("frame_latency_seconds_count", kind="relay") == 101
        assert b.metric("stage_seconds_count", stage="send") == 101
        assert b.metric("streams_active", kind="relay") == 1
        assert b.metric("reconnects_total", reason="target_down") == 1
        assert b.metric("model_switches_total", **{"from": "xlsr", "to": "bicubic", "reason": "overload"}) == 1
        assert b.metric("stream_latency_seconds", stream="relay-1", statistic="p95") == 0.3
        assert "relay-1 is upscaled by bicubic now, not xlsr: overload" in caplog.text
        await worker.say("ended", reason="ended")
        relay = await b.relay(relay["id"], lambda relay: relay["state"] == "ended")
        assert (relay["reason"], relay["error"], relay["fps_in"], relay["frames"]["under_way"]) == ("ended", None, 0.0, 0)
        assert relay["drops"] == {"late": 5, "target": 2, "lost": 2}
        await until(lambda: b.metric("streams_active", kind="relay") == 0)
        assert 'stream="relay-1"' not in generate_latest(b.service.metrics.registry).decode()


def test_frames_per_second_are_those_of_the_latest_time() -> None:
    now = 0.0
    plan = Plan("rtmp://h/a/n", "rtmp://h/a/m", "xlsr", 4, "auto", None, 2.0, 100)
    relay = Relay(RelayRecord("id", "ann", None, plan, 0.0), Metrics(), "relay-1", 0.25, lambda: now)
    frames = {"type": "frames", "delivered": [[0.1, *[0.01] * 5]] * 40, "in": 60, "held": 0, "dropped": {}, "failed": 0}
    relay.heed(frames | {"under_way": 20})
    now = 2.0
    relay.tick()
    assert (relay.figures()["fps_in"], relay.figures()["fps_out"]) == (30.0, 20.0)
    now = 4.0
    relay.tick()
    assert relay.figures()["fps_in"] == 0.0


async def test_an_error_of_a_worker_ends_the_relay_and_shows_no_key(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        relay = await b.create()
        await (await b.worker(1)).say("error", code="unsupported", message=f"{SOURCE} has HEVC; send H.264")
        relay = await b.relay(relay["id"], lambda relay: relay["state"] == "failed")
        assert relay["error"]["code"] == "unsupported"
        assert "send H.264" in relay["error"]["message"]
        assert "canary" not in relay["error"]["message"]
        assert b.metric("stream_faults_total", reason="unsupported") == 1
        await b.create()  # its place is free
        await (await b.worker(2)).say("error", code="no such code", message="odd")
        relays = await b.relays()
        relay = await b.relay(relays[0]["id"], lambda relay: relay["state"] == "failed")
        assert relay["error"]["code"] == "internal"


async def test_a_crashed_worker_is_started_again_and_its_neighbour_does_not_notice(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        relay = await running(b)
        other = await b.create(target="rtmp://127.0.0.1/upscaled/other")
        bystander = await b.worker(2)
        await bystander.run()
        await b.workers[0].say("model", model="bicubic", reason="overload", engine="swscale", precision="int16")
        await b.workers[0].frames(3, **{"in": 5}, under_way=2)
        relay = await b.relay(relay["id"], lambda relay: relay["frames"]["in"] == 6)
        assert relay["model"] == "bicubic"
        await b.workers[0].finish(-11)
        await (await b.worker(3)).run()
        relay = await b.relay(relay["id"], lambda relay: relay["state"] == "running" and relay["frames"]["in"] == 7)
        assert (relay["reconnects"], relay["drops"], relay["frames"]["under_way"]) == (1, {"lost": 2}, 0)
        assert relay["model"] == "xlsr"  # each worker begins with what was asked for
        assert b.metric("stream_faults_total", reason="crashed") == 1
        assert b.metric("reconnects_total", reason="crashed") == 1
        await bystander.frames(4)
        other = await b.relay(other["id"], lambda relay: relay["frames"]["delivered"] == 5)
        assert (other["state"], other["reconnects"], len(b.workers)) == ("running", 0, 3)


@pytest.mark.parametrize(
    "words",
    [
        {"type": "nonsense"},
        {},
        {"type": "state", "state": "glad"},
        {"type": "reconnect", "side": "source", "reason": "x" * 100},
        {"type": "frames", "in": 1, "delivered": [], "dropped": {"made-up": 1}, "held": 0, "failed": 0, "under_way": 0},
        {"type": "frames", "in": 1, "delivered": [[1, 2]], "dropped": {}, "held": 0, "failed": 0, "under_way": 0},
        {"type": "model", "model": "made-up", "reason": "overload"},
        {"type": "model", "model": "bicubic", "reason": "made-up"},
        {"type": "source"},
    ],
)
async def test_a_worker_that_says_what_it_should_not_is_replaced(tmp_path: Path, words: dict[str, Any]) -> None:
    async with bench(tmp_path) as b:
        relay = await b.create()
        await (await b.worker(1))._theirs.send_json(words)
        await (await b.worker(2)).run()
        await b.relay(relay["id"], lambda relay: relay["state"] == "running")
        assert b.workers[0].ended
        told = generate_latest(b.service.metrics.registry).decode()
        assert "made-up" not in told
        assert "xxxxx" not in told


@pytest.mark.parametrize("begins", [running, Bench.create])
async def test_a_silent_worker_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: Callable[[Bench], Awaitable[dict[str, Any]]]
) -> None:
    monkeypatch.setattr("server.relays.SILENCE_SECONDS", 0.2)
    async with bench(tmp_path) as b:
        relay = await begins(b)
        await b.relay(relay["id"], lambda relay: relay["reconnects"] == 1)
        assert b.workers[0].ended


async def test_a_relay_that_could_not_be_filed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise ServiceError("storage", "the disk of the service is full; try later")

    async with bench(tmp_path) as b:
        for failing, times in ("add", 2), ("end", 1):
            with monkeypatch.context() as patch:
                patch.setattr(RelayStore, failing, fails)
                for _ in range(times):
                    answer = await b.hook("publish")
                assert answer.status_code == (507 if failing == "add" else 204)
                if failing == "end":
                    await (await b.worker(1)).say("incoming")
                    await b.workers[0].say("ended", reason="ended")
                    await until(lambda: b.workers[0].ended)
            await until(lambda: b.metric("streams_active", kind="relay") == 0)
            assert b.metric("streams_by_model", kind="relay", model="xlsr") == 0
        assert (await b.hook("publish")).status_code == 204


async def test_what_always_crashes_fails_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.relays.MAX_BACKOFF_SECONDS", 0.01)
    async with bench(tmp_path) as b:
        relay = await b.create()
        for number in range(1, MAX_CRASHES + 2):
            await (await b.worker(number)).finish(1)
        relay = await b.relay(relay["id"], lambda relay: relay["state"] == "failed")
        assert relay["error"]["code"] == "crashed"
        assert b.metric("stream_faults_total", reason="crashed") == MAX_CRASHES + 1


async def test_a_machine_without_room_is_tried_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.refusal = ServiceError("busy", "no worker process can be started just now; try again", retry_after=5)
        relay = await b.create()
        await b.relay(relay["id"], lambda relay: relay["reconnects"] >= 2)
        b.refusal = None
        await (await b.worker(1)).run()
        await b.relay(relay["id"], lambda relay: relay["state"] == "running")


async def test_names_are_looked_up_and_checked_before_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"name.example.com": "93.184.216.34"}

    async def look_up(_: object, host: str, port: int) -> list[str]:
        return [answers.get(host, host)]

    monkeypatch.setattr("server.targets._Resolver.look_up", look_up)
    async with bench(tmp_path, relay_targets=["rtmps://*.example.com"]) as b:
        relay = await b.create(target="rtmps://name.example.com/live/cam?key=1")
        worker = await b.worker(1)
        assert worker.options["target"] == {"url": "rtmps://name.example.com/live/cam?key=1", "address": "93.184.216.34"}
        answers["name.example.com"] = "93.184.216.35"
        await worker.finish(1)
        worker = await b.worker(2)
        assert worker.options["target"]["address"] == "93.184.216.35"
        answers["name.example.com"] = "127.0.0.1"
        await worker.finish(1)
        relay = await b.relay(relay["id"], lambda relay: relay["state"] == "failed")
        assert (relay["error"]["code"], len(b.workers)) == ("target_denied", 2)


async def test_removal_lets_the_worker_finish(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        relay = await running(b)
        assert (await b.client.delete(f"/v1/relays/{relay['id']}")).status_code == 204
        assert b.workers[0].heard == [{"type": "stop"}]
        assert b.workers[0].ended
        assert (await b.client.get(f"/v1/relays/{relay['id']}")).status_code == 404
        assert await b.relays() == []
        assert b.metric("streams_active", kind="relay") == 0


async def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    async with bench(tmp_path, shutdown_grace_seconds=0.2) as b:
        b.obedient = False
        relay = await running(b)
        assert (await b.client.delete(f"/v1/relays/{relay['id']}")).status_code == 204
        assert (b.workers[0].heard, b.workers[0].ended) == ([{"type": "stop"}], True)


async def test_relays_go_on_after_a_restart(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        relay, failed = await b.create(), await b.create(target="rtmp://127.0.0.1/upscaled/other")
        await (await b.worker(2)).say("error", code="unsupported", message="HEVC")
        await b.relay(failed["id"], lambda relay: relay["state"] == "failed")
        assert (await b.hook("publish", "cam2")).status_code == 204
        await b.worker(3)
        mode = await asyncio.to_thread(lambda: stat.S_IMODE((tmp_path / "relays.sqlite3").stat().st_mode))
        assert mode == 0o600
    assert all(worker.heard == [{"type": "stop"}] for worker in (b.workers[0], b.workers[2]))
    async with bench(tmp_path) as b:
        streams = {
            worker.options["source"]["url"].partition("?")[0]: worker for worker in [await b.worker(1), await b.worker(2)]
        }
        assert streams["rtmp://127.0.0.1/live/cam"].options["source"]["url"] == SOURCE  # stream key and all
        assert set(streams) == {"rtmp://127.0.0.1/live/cam", "rtmp://127.0.0.1:1935/live/cam2"}
        found = {entry["id"]: entry for entry in await b.relays()}
        assert (found[relay["id"]]["state"], found[failed["id"]]["error"]["code"]) == ("starting", "unsupported")
        assert len(found) == 3


async def test_what_ended_is_forgotten_in_time(tmp_path: Path) -> None:
    async with bench(tmp_path, job_retention_seconds=1) as b:
        relay = await b.create()
        await (await b.worker(1)).say("ended", reason="ended")
        async with asyncio.timeout(60):
            while (await b.client.get(f"/v1/relays/{relay['id']}")).status_code != 404:
                await asyncio.sleep(0.05)


async def test_a_key_s_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relay, "age", 61.0)
    async with bench(tmp_path) as b:
        plan = Plan(SOURCE, "rtmp://127.0.0.1/upscaled/cam", "xlsr", 4, "auto", None, 2.0, 100, seconds=60)
        caller = b.service.keyring.caller(None, "")
        record = await b.service.relays.add(caller, plan)
        relay = await b.relay(record.id, lambda relay: relay["state"] == "ended")
        assert relay["reason"] == "a relay of anonymous lasts 60 s"


async def test_a_file_of_relays_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    def damage() -> None:
        with sqlite3.connect(tmp_path / "relays.sqlite3") as database:
            database.execute("PRAGMA user_version = 99")
        database.close()

    await asyncio.to_thread(damage)
    with pytest.raises(DatabaseError, match=r"relays\.sqlite3 was written by a later version"):
        async with bench(tmp_path):
            pass


async def test_there_are_so_many_relays_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path, max_relays=2) as b:
        relays = [await b.create(target=f"rtmp://127.0.0.1/upscaled/{number}") for number in range(2)]
        answer = await b.client.post("/v1/relays", json={"source": SOURCE, "target": "rtmp://127.0.0.1/upscaled/3"})
        assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (429, True)  # of one caller's own
        answer = await b.hook("publish")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
        assert int(answer.headers["Retry-After"]) > 0
        await b.client.delete(f"/v1/relays/{relays[0]['id']}")
        assert (await b.hook("publish")).status_code == 204


async def test_a_busy_processor_takes_no_further_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Load, "share", 0.97)
    async with bench(tmp_path) as b:
        relay = await running(b)  # the first one is always taken
        for answer in (
            await b.client.post("/v1/relays", json={"source": SOURCE, "target": "rtmp://127.0.0.1/upscaled/2"}),
            await b.hook("publish", "cam2"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
            assert int(answer.headers["Retry-After"]) > 0
            assert "97%" in answer.json()["error"]["message"]
        assert (await b.relay(relay["id"], lambda relay: True))["state"] == "running"


def test_load_is_the_share_of_all_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    took, now = iter([0.0] + [number * cores * 0.5 for number in range(100)]), iter([0.0, *map(float, range(100))])
    load = Load(lambda: next(took), lambda: next(now))
    assert load.share == 0
    for _ in range(WINDOW + 3):
        load.sample()
    assert load.share == pytest.approx(0.5)
    load.forget()
    assert load.share == 0


def test_processor_time_is_that_of_this_process_and_its_children() -> None:
    before = processor_seconds()
    spin = "import time\nwhile time.process_time() < 0.5: pass\nprint('spun', flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "spun\n"
    grown = processor_seconds() - before
    assert grown > 0.4
    child.communicate("\n", timeout=60)
    assert processor_seconds() - before >= grown  # what a child took is not forgotten


def test_ten_thousand_streams_leave_few_series() -> None:
    metrics = Metrics()
    plan = Plan("rtmp://h/a/n", "rtmp://h/a/m", "xlsr", 4, "auto", None, 2.0, 100)
    relays = []
    for number in range(10_000):
        relay = Relay(RelayRecord(str(number), "ann", f"s{number}", plan, 0.0), metrics, f"live/s{number}", 0.25)
        relay.heed({"type": "reconnect", "side": "source", "reason": "timeout"})
        relay.tick()
        relays.append(relay)
    text = generate_latest(metrics.registry).decode()
    assert text.count("fourfold_stream_fps{") <= 2 * (NAMED_STREAMS + 1)
    for relay in relays:
        relay.end("ended", None)
    assert "live/s" not in generate_latest(metrics.registry).decode()
