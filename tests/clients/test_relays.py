"""Relays, as the page of the HTTP interface words them."""

import socket
from pathlib import Path
from typing import Any

import pytest

from fourfold_client import AsyncClient, BusyError, Client, InvalidInputError, NotFoundError, Relay
from tests.support.scripted import Answer, refusal, scripted
from tests.support.service import running_service

WORDS: dict[str, Any] = {
    "id": "r1",
    "state": "starting",
    "source": "rtmp://127.0.0.1/live/a",
    "target": "rtmp://127.0.0.1/upscaled/a",
    "model": "xlsr-live",
    "fps_in": None,
    "fps_out": None,
    "latency_ms": {"p50": None, "p95": None, "p99": None},
    "drops": {"late": 2},
    "reconnects": 0,
    "of_tomorrow": 1,
}


def states(*names: str) -> list[Answer]:
    return [Answer(200, WORDS | {"state": name}) for name in names]


def test_create() -> None:
    with scripted([Answer(201, WORDS)]) as server, Client(server.url) as client:
        relay = client.relays.create(WORDS["source"], WORDS["target"], scale=2, bitrate=4_000_000)
        assert (relay.id, relay.state, relay.drops, relay.over) == ("r1", "starting", {"late": 2}, False)
        [(method, path, body)] = server.requests
    assert (method, path) == ("POST", "/v1/relays")
    assert body.replace(b" ", b"") == (
        b'{"source":"rtmp://127.0.0.1/live/a","target":"rtmp://127.0.0.1/upscaled/a","scale":2,"bitrate":4000000}'
    )


def test_over_capacity_waits_as_long_as_it_is_told_to() -> None:
    with scripted([refusal(503, "busy", 0), Answer(201, WORDS)]) as server, Client(server.url) as client:
        assert client.relays.create("rtmp://a/b", "rtmp://c/d").id == "r1"
    with scripted([refusal(503, "busy", 999)]) as server, Client(server.url) as client, pytest.raises(BusyError) as caught:
        client.relays.create("rtmp://a/b", "rtmp://c/d")
    assert caught.value.retry_after == 999


@pytest.mark.anyio
async def test_list_get_and_delete() -> None:
    pages = [Answer(200, {"relays": [WORDS | {"id": name}], "next": cursor}) for name, cursor in (("r2", "r2"), ("r1", None))]
    with scripted([*pages, *states("running"), Answer(204, b"")]) as server:
        async with AsyncClient(server.url) as client:
            assert [relay.id for relay in await client.relays.list()] == ["r2", "r1"]
            assert (await client.relays.get("a/../b")).state == "running"
            await client.relays.delete("r1")
        asked = [(method, path) for method, path, _ in server.requests]
    assert asked == [
        ("GET", "/v1/relays"),
        ("GET", "/v1/relays?cursor=r2"),
        ("GET", "/v1/relays/a%2F..%2Fb"),
        ("DELETE", "/v1/relays/r1"),
    ]


def test_the_real_service(tmp_path: Path) -> None:
    """Nobody publishes at the source: a relay waits for that, and can be asked about and removed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"rtmp://127.0.0.1:{server.getsockname()[1]}"
    allowed = {"relay_sources": place, "relay_targets": place}
    with running_service(tmp_path, ready=False, **allowed) as service, Client(service.url) as client:
        with pytest.raises(InvalidInputError) as caught:
            client.relays.create("rtmp://169.254.169.254/live/a", f"{place}/upscaled/a")
        assert caught.value.code == "target_denied"
        relay = client.relays.create(f"{place}/live/a", f"{place}/upscaled/a", model="bicubic", scale=2)
        assert (relay.source, relay.model, relay.drops) == (f"{place}/live/a", "bicubic", {})
        assert [one.id for one in client.relays.list()] == [relay.id]
        assert client.relays.get(relay.id).id == next(client.relays.watch(relay.id)).id == relay.id
        client.relays.delete(relay.id)
        with pytest.raises(NotFoundError):
            client.relays.get(relay.id)


@pytest.mark.anyio
async def test_wait() -> None:
    with scripted(states("starting", "starting", "running")) as server:
        async with AsyncClient(server.url) as client:
            assert (await client.relays.wait("r1")).state == "running"
    with scripted(states("starting", "failed")) as server:
        async with AsyncClient(server.url) as client:
            relay = await client.relays.wait("r1", states=["running"])
            assert (relay.state, relay.over) == ("failed", True)
    with scripted(states("starting")) as server:
        async with AsyncClient(server.url) as client:
            with pytest.raises(TimeoutError):
                await client.relays.wait("r1", timeout=0.1)


def test_watch() -> None:
    seen: list[Relay] = []
    with scripted(states("starting", "running", "ended")) as server, Client(server.url) as client:
        seen += client.relays.watch("r1", interval=0.01)
    assert [relay.state for relay in seen] == ["starting", "running", "ended"]
