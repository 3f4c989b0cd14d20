"""Who gets in: keys made, listed and revoked on the command line, and what the service answers to those who have none."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import Message
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from server.access import WRONG_KEYS, WRONG_KEYS_SECONDS, Keyring
from server.api import web
from server.app import create_app
from server.errors import ServiceError
from server.keyfile import Limits, Scope, add_key, read_keys, revoke_key
from server.keylist import KeyFileError
from server.settings import Settings
from tests.support.bystander import watched
from tests.support.service import RunningService, running_service

PUBLIC = {"/health/live", *web.PATHS}
PROXY = "127.0.9.1"
CANARY = "ff_canary-canary-canary-canary-canary-canary0"


def fourfold(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=inherited | environment, check=False)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "keys.json"


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(keyring: Keyring, key: str | None, address: str = "192.0.2.1") -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        keyring.caller(key, address)
    return caught.value


# ---------------------------------------------------------------------------------------------------- on the command line


def test_a_key_is_printed_once_and_only_its_hash_is_kept(keys: Path) -> None:
    result = fourfold("keys", "add", "studio", "--scope", "images", "--scope", "videos", "--file", str(keys))
    assert result.returncode == 0, result.stderr
    key = result.stdout.strip()
    assert key.startswith("ff_")
    assert len(key) == 3 + 43
    assert key not in keys.read_text()
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert [path.name for path in keys.parent.iterdir()] == ["keys.json"]
    assert Keyring(keys).caller(key, "").scopes == {"images", "videos"}


def test_a_file_that_is_changed_stays_open_for_whom_it_was(keys: Path) -> None:
    add_key(keys, "studio", ["images"], None, Limits())
    owner = (10001, 10002) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(keys, *owner)
    keys.chmod(0o444)  # as `make secrets` leaves it, for the user of a container
    assert fourfold("keys", "add", "mobile", "--scope", "images", "--file", str(keys)).returncode == 0
    status = keys.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o444, *owner)


def test_list_shows_everything_but_hashes(keys: Path) -> None:
    limits = ("--limit", "streams=2", "--limit", "pixels=1000000")
    fourfold("keys", "add", "studio", "--scope", "streams", "--expires", "30", *limits, "--file", str(keys))
    shown = fourfold("keys", "list", "--json", FOURFOLD_API_KEYS_FILE=str(keys))
    (row,) = json.loads(shown.stdout)["keys"]
    assert (row["name"], row["scopes"]) == ("studio", ["streams"])
    assert row["limits"] == {"streams": 2, "bytes": None, "pixels": 1000000, "seconds": None}
    left = datetime.fromisoformat(row["expires"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    table = fourfold("keys", "list", "--file", str(keys)).stdout
    assert "studio" in table
    assert "streams 2" in table
    assert read_keys(keys)[0].hash not in shown.stdout + table


def test_a_revoked_key_is_gone(keys: Path) -> None:
    key = add_key(keys, "studio", ["images"], None, Limits())
    assert fourfold("keys", "revoke", "studio", "--file", str(keys)).returncode == 0
    assert refused(Keyring(keys), key).code == "unauthorized"
    again = fourfold("keys", "revoke", "studio", "--file", str(keys))
    assert (again.returncode, "no key called studio" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["add", "studio", "--scope", "pictures"], "images, videos"),
        (["add", "studio", "--scope", "images", "--limit", "streams"], "WHAT=N"),
        (["add", "studio", "--scope", "images", "--limit", "gold=3"], "streams, bytes, pixels, seconds"),
        (["add", "studio", "--scope", "images", "--limit", "bytes=0"], "from 1"),
        (["add", "../../etc", "--scope", "images"], "no name for a key"),
        (["add", "$(id)", "--scope", "images"], "no name for a key"),
        (["add", "a\r\nb: c", "--scope", "images"], "no name for a key"),
        (["list"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_told(arguments: list[str], told: str, keys: Path) -> None:
    result = fourfold("keys", *arguments, "--file", str(keys))
    assert result.returncode == 1
    assert told in result.stderr
    assert not keys.exists()


def test_the_name_of_a_key_is_taken_once(keys: Path) -> None:
    add_key(keys, "studio", ["images"], None, Limits())
    with pytest.raises(KeyFileError, match="already"):
        add_key(keys, "studio", ["images"], None, Limits())


def test_keys_need_a_file(tmp_path: Path) -> None:
    result = fourfold("keys", "list")
    assert result.returncode == 1
    assert "FOURFOLD_API_KEYS_FILE" in result.stderr


def test_keys_that_are_added_at_once_are_all_kept(keys: Path) -> None:
    command = [sys.executable, "-m", "server.cli", "keys", "add", "--scope", "images", "--file", str(keys)]
    running = [subprocess.Popen([*command, f"k{number}"], stdout=subprocess.DEVNULL) for number in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert {key.name for key in read_keys(keys)} == {"k0", "k1", "k2", "k3"}


# ------------------------------------------------------------------------------------------------------------ the keyring


def test_a_key_says_who_calls(keys: Path) -> None:
    key = add_key(keys, "studio", ["images"], None, Limits(streams=3))
    add_key(keys, "other", ["admin"], None, Limits())
    caller = Keyring(keys).caller(key, "")
    assert (caller.name, caller.limits.streams, caller.may("images"), caller.may("videos")) == ("studio", 3, True, False)


def test_admin_may_everything(keys: Path) -> None:
    key = add_key(keys, "root", ["admin"], None, Limits())
    scopes: tuple[Scope, ...] = ("images", "videos", "streams", "relays", "metrics", "admin")
    assert all(Keyring(keys).caller(key, "").may(scope) for scope in scopes)


def test_without_a_file_everyone_is_welcome() -> None:
    assert Keyring(None).caller(None, "").name == "anonymous"


@pytest.mark.parametrize("key", [None, "", "ff_", "nonsense", "ff_" + "a" * 43, "ü" * 40, "x" * 100_000])
def test_no_key_and_wrong_keys_are_refused(key: str | None, keys: Path) -> None:
    add_key(keys, "studio", ["images"], None, Limits())
    assert refused(Keyring(keys), key).code == "unauthorized"


def test_an_expired_key_is_refused(keys: Path) -> None:
    key = add_key(keys, "studio", ["images"], datetime.now(UTC) - timedelta(seconds=1), Limits())
    assert "expired" in refused(Keyring(keys), key).message


def test_every_key_is_compared_whichever_it_is(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_keys = [add_key(keys, f"k{number}", ["images"], None, Limits()) for number in range(5)]
    keyring, compared = Keyring(keys), []

    def compare(first: str, second: str) -> bool:
        compared.append(first)
        return first == second

    monkeypatch.setattr("server.access.hmac.compare_digest", compare)
    assert [keyring.caller(key, "").name for key in all_keys] == [f"k{number}" for number in range(5)]
    refused(keyring, "ff_wrong")
    assert len(compared) == 5 * 6


def test_guessing_is_slowed(keys: Path) -> None:
    key, clock = add_key(keys, "studio", ["images"], None, Limits()), Clock()
    keyring = Keyring(keys, clock)
    for _ in range(WRONG_KEYS):
        assert refused(keyring, "ff_wrong").code == "unauthorized"
    error = refused(keyring, "ff_wrong")
    assert error.code == "rate"
    assert error.retry_after is not None
    assert refused(keyring, key).code == "rate"  # or the answer would tell that the guess was right
    assert keyring.caller(key, "192.0.2.2").name == "studio"  # others notice nothing
    assert refused(keyring, key).code == "rate"
    clock.now += error.retry_after
    assert keyring.caller(key, "192.0.2.1").name == "studio"


def test_who_shares_an_address_with_a_guesser_stays_in(keys: Path) -> None:
    key, other = (add_key(keys, name, ["images"], None, Limits()) for name in ("studio", "other"))
    keyring = Keyring(keys)
    keyring.caller(key, "192.0.2.1")
    for _ in range(WRONG_KEYS):
        refused(keyring, "ff_wrong")
    assert keyring.caller(key, "192.0.2.1").name == "studio"
    assert refused(keyring, other).code == "rate"


def test_slow_typing_is_no_guessing(keys: Path) -> None:
    add_key(keys, "studio", ["images"], None, Limits())
    clock = Clock()
    keyring = Keyring(keys, clock)
    for _ in range(3 * WRONG_KEYS):
        assert refused(keyring, "ff_wrong").code == "unauthorized"
        clock.now += WRONG_KEYS_SECONDS / (WRONG_KEYS - 1)


def test_neighbours_in_one_ipv6_network_count_together(keys: Path) -> None:
    add_key(keys, "studio", ["images"], None, Limits())
    keyring = Keyring(keys)
    for number in range(WRONG_KEYS):
        refused(keyring, "ff_wrong", f"2001:db8::{number}")
    assert refused(keyring, "ff_wrong", "2001:db8::ffff").code == "rate"
    assert refused(keyring, "ff_wrong", "2001:db8:1::1").code == "unauthorized"


def test_many_addresses_take_little_memory(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.access.ADDRESSES", 100)
    add_key(keys, "studio", ["images"], None, Limits())
    keyring = Keyring(keys)
    for number in range(1000):
        refused(keyring, "ff_wrong", f"198.51.{number // 250}.{number % 250}")
    assert len(keyring._guard._wrong) == 100


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": [{}]}', '{"keys": [{"name": "a", "hash": "zz", "scopes": []}]}'])
def test_a_damaged_file_is_told(text: str, keys: Path) -> None:
    keys.parent.mkdir()
    keys.write_text(text)
    with pytest.raises(KeyFileError, match="damaged"):
        Keyring(keys)


@pytest.mark.anyio
async def test_changes_are_noticed_and_damage_is_not_followed(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.keylist.WATCH_SECONDS", 0.01)
    first = await anyio.to_thread.run_sync(lambda: add_key(keys, "first", ["images"], None, Limits()))
    keyring = await anyio.to_thread.run_sync(Keyring, keys)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keyring.watch)
        second = await anyio.to_thread.run_sync(lambda: add_key(keys, "second", ["images"], None, Limits()))
        await until(lambda: keyring.caller(second, "").name == "second")
        await anyio.Path(keys).write_text("damaged")
        await anyio.sleep(0.1)
        assert keyring.caller(first, "").name == "first"
        await anyio.Path(keys).unlink()
        await anyio.to_thread.run_sync(lambda: add_key(keys, "third", ["images"], None, Limits()))
        await until(lambda: refused(keyring, first, "192.0.2.9").code == "unauthorized")
        tasks.cancel_scope.cancel()


async def until(happened: Any) -> None:
    with anyio.fail_after(10):
        while True:
            try:
                if happened():
                    return
            except (ServiceError, pytest.fail.Exception):
                pass
            await anyio.sleep(0.02)


# ------------------------------------------------------------------------------------------------------------ the service


@dataclass(frozen=True)
class Guarded:
    """A service that asks for keys, and its file of keys."""

    service: RunningService
    keys: Path

    def client(self, key: str | None = None, address: str = "127.0.0.1") -> httpx.Client:
        """Args: address: of this machine, to come from."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(base_url=self.service.url, headers=headers, transport=transport, timeout=30)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.json"
    root = add_key(keys, "root", ["admin"], None, Limits())
    add_key(keys, "old", ["admin"], datetime.now(UTC) - timedelta(days=1), Limits())
    with running_service(folder, key=root, api_keys_file=keys, trusted_proxies=[PROXY]) as service, watched(service):
        yield Guarded(service, keys)


def test_every_route_asks_for_a_key_before_it_reads_a_body(tmp_path: Path, keys: Path) -> None:
    add_key(keys, "studio", ["images"], None, Limits())
    secret = tmp_path / "secret"
    secret.write_text("of the hooks")
    app = create_app(Settings(api_keys_file=keys, hook_secret_file=secret, data_folder=tmp_path))
    asked = []
    for route in iter_route_contexts(app.routes):
        path = (route.path or "").replace("{", "").replace("}", "")
        for method in route.methods or ["WEBSOCKET"]:
            asked.append(path)
            status = anyio.run(first_answer, app, method, path)
            assert status == (200 if path in PUBLIC else 401), f"{method} {path} answers {status}"
    assert {"/docs", "/openapi.json", "/metrics", "/health/ready", "/v1/models", "/v1/videos", "/v1/videos/id"} <= set(asked)
    assert {"/v1/relays", "/v1/relays/id", "/hooks/rtmp/publish", "/hooks/rtmp/publish_done", "/hooks/rtmp/play"} <= set(asked)


async def first_answer(app: FastAPI, method: str, path: str) -> int:
    """The status of the answer to a request whose body must not be read."""
    answers: list[Message] = []
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
    scope["headers"] = [(b"host", b"service"), (b"transfer-encoding", b"chunked")]
    if method == "WEBSOCKET":
        scope |= {"type": "websocket", "subprotocols": [], "extensions": {"websocket.http.response": {}}}

    async def receive() -> Message:
        if method == "WEBSOCKET" and not answers:
            return {"type": "websocket.connect"}
        if answers:
            return {"type": "http.disconnect"}
        raise AssertionError("the body was read before the key")

    async def send(message: Message) -> None:
        answers.append(message)

    await app(scope, receive if path not in PUBLIC else _nothing, send)
    return int(answers[0].get("status", 101))


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize(
    "path", ["/docs", "/openapi.json", "/metrics", "/health/ready", "/v1/models", "/nothing", "/v1/images"]
)
@pytest.mark.parametrize("key", [None, "ff_wrong"])
def test_without_a_good_key_nothing_is_told(guarded: Guarded, path: str, key: str | None) -> None:
    with guarded.client(key, f"127.0.1.{len(path)}") as client:
        answer = client.get(path)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "unauthorized"
    assert answer.json()["error"]["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize("value", ["Basic cm9vdDpyb290", "Bearer", "bearer ff_", "ff_x"])
def test_odd_headers_are_no_keys(guarded: Guarded, value: str) -> None:
    with guarded.client(address="127.0.2.1") as client:
        assert client.get("/v1/models", headers={"Authorization": value}).status_code == 401


def test_liveness_is_for_everyone(guarded: Guarded) -> None:
    with guarded.client() as client:
        assert client.get("/health/live").json() == {"status": "ok"}


def test_a_scope_opens_its_routes_only(guarded: Guarded) -> None:
    key = add_key(guarded.keys, "prometheus", ["metrics"], None, Limits())
    with guarded.client(key) as client:
        until_noticed(lambda: client.get("/v1/models").status_code == 200)
        assert client.get("/metrics").status_code == 200
        refused = client.get("/v1/videos")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert "lacks the scope videos" in refused.json()["error"]["message"]


def test_a_key_can_be_revoked_while_the_service_runs(guarded: Guarded) -> None:
    key = add_key(guarded.keys, "guest", ["videos"], None, Limits())
    with guarded.client(key, "127.0.3.1") as client:
        until_noticed(lambda: client.get("/v1/videos").status_code == 200)
        revoke_key(guarded.keys, "guest")
        until_noticed(lambda: client.get("/v1/videos").status_code == 401)


def until_noticed(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline, "the service does not notice that its file of keys changed"
        time.sleep(0.3)  # the guard against guessing counts these


def test_the_body_of_a_stranger_is_not_read(guarded: Guarded) -> None:
    port = guarded.service.port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        head = b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"100 Continue" not in answer


def test_guessing_over_http_is_slowed(guarded: Guarded) -> None:
    with guarded.client("ff_wrong", "127.0.4.1") as client:
        answers = [client.get("/v1/models") for _ in range(WRONG_KEYS + 1)]
    assert [answer.status_code for answer in answers] == [401] * WRONG_KEYS + [429]
    assert answers[-1].json()["error"]["code"] == "rate"
    assert 0 < int(answers[-1].headers["Retry-After"]) <= WRONG_KEYS_SECONDS + 1
    with guarded.client(guarded.service.key) as bystander:
        assert bystander.get("/v1/models").status_code == 200


def test_a_trusted_proxy_says_who_guesses(guarded: Guarded) -> None:
    def status(came_from: str, said: str) -> int:
        with guarded.client("ff_wrong", came_from) as client:
            return client.get("/v1/models", headers={"X-Forwarded-For": said}).status_code

    assert [status(PROXY, "198.51.100.1") for _ in range(WRONG_KEYS + 1)][-1] == 429
    assert status(PROXY, "198.51.100.2") == 401
    assert [status("127.0.9.2", f"198.51.100.{number}") for number in range(WRONG_KEYS + 1)][-1] == 429  # anyone can say that


@pytest.mark.parametrize("offered", [None, "fourfold.bearer.ff_wrong"])
def test_a_websocket_without_a_good_key_is_refused(guarded: Guarded, offered: str | None) -> None:
    protocols = [Subprotocol(offered)] if offered else None
    with pytest.raises(InvalidStatus) as caught, connect(f"{guarded.service.ws_url}/v1/stream", subprotocols=protocols):
        pass
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body)["error"]["code"] == "unauthorized"


def test_a_browser_shows_its_key_as_a_subprotocol(guarded: Guarded) -> None:
    offered = [Subprotocol(f"fourfold.bearer.{guarded.service.key}")]
    with pytest.raises(InvalidStatus) as caught, connect(f"{guarded.service.ws_url}/nowhere", subprotocols=offered):
        pass
    assert caught.value.response.status_code == 404  # not 401: it got in, but there is nothing


def test_a_key_shows_up_nowhere(guarded: Guarded) -> None:
    service, key = guarded.service, guarded.service.key
    assert key
    seen = []
    with guarded.client(key) as good, guarded.client(CANARY, "127.0.5.1") as wrong:
        for client, own in ((good, key), (wrong, CANARY)):
            for path in ("/v1/models", f"/v1/videos/{own}", f"/v1/models?key={own}", f"/{own}", f"/v1/videos?limit={own}"):
                answer = client.get(path, headers={"X-Key": own, "Cookie": own, "User-Agent": own})
                seen.append(answer.text + str(answer.headers))
            seen.append(client.post(f"/v1/images?model={own}&scale={own}", content=own).text)
            seen.append(client.post("/v1/videos", files={"video": (own, own)}).text)
            seen.append(client.request("DELETE", f"/v1/videos/{own}").text)
        seen.append(good.get("/metrics").text)
    for offered in (key, CANARY):
        with suppress(InvalidStatus), connect(f"{service.ws_url}/nowhere?key={offered}", subprotocols=[Subprotocol(offered)]):
            pass
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(f"GET /{key} NONSENSE/{key}\r\n\r\n".encode())
        seen.append(connection.recv(65536).decode())
    time.sleep(0.5)  # for the last lines of the log
    told = "\n".join([*seen, *service.log])
    assert "request" in told
    assert key not in told
    assert CANARY not in told
    assert "Traceback" not in told
