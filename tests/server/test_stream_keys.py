"""Stream keys: made, listed and revoked on the command line; who may publish and play with them."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from server.access import WRONG_KEYS, WRONG_KEYS_SECONDS
from server.errors import ServiceError
from server.keylist import KeyFileError
from server.stream_keys import PURPOSES, Purpose, StreamKeyring, add_stream_key, revoke_stream_keys
from tests.server.test_access import Clock, fourfold, until


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "stream-keys.json"


def refusal(keyring: StreamKeyring, purpose: Purpose, name: str, key: str, address: str = "192.0.2.1") -> str:
    with pytest.raises(ServiceError) as caught:
        keyring.check(purpose, name, key, address)
    assert not key or key not in caught.value.message
    return caught.value.code


def test_a_key_is_made_listed_and_revoked_on_the_command_line(keys: Path) -> None:
    made = fourfold("keys", "stream", "add", "cam", "--for", "publish", "--expires", "30", "--file", str(keys))
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("ff_")
    assert key not in keys.read_text()
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    StreamKeyring(keys).check("publish", "cam", key, "")
    listed = fourfold("keys", "stream", "list", "--json", FOURFOLD_STREAM_KEYS_FILE=str(keys))
    (row,) = json.loads(listed.stdout)["keys"]
    assert (row["name"], row["purpose"], "hash" in row) == ("cam", "publish", False)
    left = datetime.fromisoformat(row["expires"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    assert "publish" in fourfold("keys", "stream", "list", "--file", str(keys)).stdout
    assert fourfold("keys", "stream", "revoke", "cam", "--file", str(keys)).returncode == 0
    assert refusal(StreamKeyring(keys), "publish", "cam", key) == "forbidden"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["add", "cam", "--for", "watch"], "publish, play"),
        (["add", "../cam", "--for", "play"], "no name of a stream"),
        (["add", "$(id)", "--for", "play"], "no name of a stream"),
        (["add", "a" * 65, "--for", "play"], "no name of a stream"),
        (["revoke", "cam"], "no key for cam"),
        (["list"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_told(arguments: list[str], told: str, keys: Path) -> None:
    result = fourfold("keys", "stream", *arguments, "--file", str(keys))
    assert result.returncode == 1
    assert told in result.stderr
    assert not keys.exists()


def test_stream_keys_need_a_file() -> None:
    result = fourfold("keys", "stream", "list")
    assert (result.returncode, "FOURFOLD_STREAM_KEYS_FILE" in result.stderr) == (1, True)


def test_without_a_file_everyone_may() -> None:
    for purpose in PURPOSES:
        StreamKeyring(None).check(purpose, "cam", "", "")


def test_publishing_needs_a_key_for_this_stream_and_for_publishing(keys: Path) -> None:
    mine, other, play = (add_stream_key(keys, *what, None) for what in (("a", "publish"), ("b", "publish"), ("a", "play")))
    keyring = StreamKeyring(keys)
    keyring.check("publish", "a", mine, "")
    for number, wrong in enumerate(("", other, play, mine[:-1], "ü")):
        assert refusal(keyring, "publish", "a", wrong, f"192.0.2.{number}") == "forbidden"


def test_playing_is_open_until_there_is_a_key_for_it(keys: Path) -> None:
    publish, play = add_stream_key(keys, "a", "publish", None), add_stream_key(keys, "a", "play", None)
    keyring = StreamKeyring(keys)
    keyring.check("play", "b", "", "")
    keyring.check("play", "a", play, "")
    assert refusal(keyring, "play", "a", "") == "forbidden"
    assert refusal(keyring, "play", "a", publish) == "forbidden"


def test_one_key_may_be_for_all_streams(keys: Path) -> None:
    key = add_stream_key(keys, "*", "play", None)
    keyring = StreamKeyring(keys)
    keyring.check("play", "anything", key, "")
    assert refusal(keyring, "play", "anything", "") == "forbidden"


def test_an_expired_key_opens_nothing_and_leaves_nothing_open(keys: Path) -> None:
    key = add_stream_key(keys, "a", "play", datetime.now(UTC) - timedelta(seconds=1))
    assert refusal(StreamKeyring(keys), "play", "a", key) == "forbidden"


def test_there_is_one_key_for_each_purpose(keys: Path) -> None:
    for purpose in PURPOSES:
        add_stream_key(keys, "a", purpose, None)
        with pytest.raises(KeyFileError, match="already"):
            add_stream_key(keys, "a", purpose, None)
    revoke_stream_keys(keys, "a", "play")
    with pytest.raises(KeyFileError, match="no key to play a"):
        revoke_stream_keys(keys, "a", "play")
    revoke_stream_keys(keys, "a", None)


def test_guessing_is_slowed(keys: Path) -> None:
    key, clock = add_stream_key(keys, "a", "publish", None), Clock()
    keyring = StreamKeyring(keys, clock)
    codes = [refusal(keyring, "publish", "a", "ff_wrong") for _ in range(WRONG_KEYS + 1)]
    assert codes == ["forbidden"] * WRONG_KEYS + ["rate"]
    keyring.check("publish", "a", key, "192.0.2.2")
    clock.now += WRONG_KEYS_SECONDS + 1
    keyring.check("publish", "a", key, "192.0.2.1")


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"keys": [{"name": "a"}]}', '{"keys": [{"name": "a", "hash": "00", "purpose": "watch"}]}', '{"keys": [7]}'],
)
def test_a_damaged_file_is_told(text: str, keys: Path) -> None:
    keys.write_text(text)
    with pytest.raises(KeyFileError, match="the file of stream keys is damaged"):
        StreamKeyring(keys)


@pytest.mark.anyio
async def test_changes_are_noticed(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.keylist.WATCH_SECONDS", 0.01)
    first = await anyio.to_thread.run_sync(add_stream_key, keys, "a", "publish", None)
    keyring = await anyio.to_thread.run_sync(StreamKeyring, keys)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keyring.watch)
        second = await anyio.to_thread.run_sync(add_stream_key, keys, "b", "publish", None)
        await until(lambda: keyring.check("publish", "b", second, "192.0.2.2") is None)
        await anyio.to_thread.run_sync(revoke_stream_keys, keys, "a", None)
        await until(lambda: refusal(keyring, "publish", "a", first) in ("forbidden", "rate"))
        tasks.cancel_scope.cancel()
