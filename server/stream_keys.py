"""Stream keys: who may publish to a stream of the RTMP server, and who may play it. Knows nothing of HTTP or RTMP.

A key is for one stream, or for all of them (`*`), and for one of the two. The file holds hashes only.
"""

import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from server.access import Guard
from server.errors import ServiceError
from server.keylist import KeyFileError, KeyList, Keys, WatchedKeys, hashed

Purpose = Literal["publish", "play"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

STREAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ANY_STREAM = "*"


@dataclass(frozen=True)
class StreamKey:
    """One line of the file."""

    name: str  # of the stream, or ANY_STREAM
    purpose: Purpose
    hash: str  # see `server.keylist.hashed`
    expires: str | None = None  # ISO 8601, UTC

    def fits(self, name: str, purpose: Purpose) -> bool:
        """Whether it is a key for this."""
        return self.purpose == purpose and self.name in (name, ANY_STREAM)

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and datetime.fromisoformat(self.expires) <= now


def _key_from(entry: dict[str, Any]) -> StreamKey:
    purpose = next((known for known in PURPOSES if known == entry["purpose"]), None)
    if purpose is None:
        raise ValueError("no purpose of a stream key")
    key = StreamKey(_named(str(entry["name"])), purpose, bytes.fromhex(entry["hash"]).hex(), entry.get("expires"))
    key.expired(datetime.now(UTC))
    return key


STREAM_KEYS = KeyList("the file of stream keys", "fourfold keys stream add", _key_from)


def add_stream_key(path: Path, name: str, purpose: str, expires: datetime | None) -> str:
    """Makes a key, files its hash and gives the key: it cannot be had again.

    Raises:
        KeyFileError: there is one already, the name is none, or the file cannot be written.
    """
    if purpose not in PURPOSES:
        raise KeyFileError(f"{purpose!r} is nothing that a stream key is for; there are {', '.join(PURPOSES)}")
    key = f"ff_{secrets.token_urlsafe(32)}"
    stamp = expires.astimezone(UTC).isoformat(timespec="seconds") if expires else None
    entry = _key_from({"name": _named(name), "purpose": purpose, "hash": hashed(key), "expires": stamp})

    def with_key(keys: Keys[StreamKey]) -> Keys[StreamKey]:
        if any((other.name, other.purpose) == (name, purpose) for other in keys):
            raise KeyFileError(f"there is a key to {purpose} {name} already; revoke it first")
        return (*keys, entry)

    STREAM_KEYS.change(path, with_key)
    return key


def revoke_stream_keys(path: Path, name: str, purpose: str | None) -> None:
    """Removes the keys of a stream: those for one purpose, or for both.

    Raises:
        KeyFileError: there is none, or the file cannot be written.
    """

    def without_keys(keys: Keys[StreamKey]) -> Keys[StreamKey]:
        left = tuple(key for key in keys if key.name != name or purpose not in (None, key.purpose))
        if len(left) == len(keys):
            known = ", ".join(f"{key.name} ({key.purpose})" for key in keys) or "none"
            raise KeyFileError(f"there is no key {f'to {purpose} ' if purpose else 'for '}{name}; there are: {known}")
        return left

    STREAM_KEYS.change(path, without_keys)


def stream_key_rows(path: Path) -> list[dict[str, Any]]:
    """What `fourfold keys stream list` shows: all but the hashes."""
    return [{name: value for name, value in asdict(key).items() if name != "hash"} for key in STREAM_KEYS.read(path)]


class StreamKeyring:
    """Says who may publish and play; reads the file again when it changes."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        path: the file of stream keys; None: everyone may.
        clock: seconds, for the guard against guessing.

        Raises:
            KeyFileError: see `KeyList.read`.
        """
        self._file, self._guard = WatchedKeys(STREAM_KEYS, path), Guard(clock)
        self.watch = self._file.watch

    def check(self, purpose: Purpose, name: str, key: str, address: str) -> None:
        """Publishing needs a key as soon as there is a file; playing, as soon as there is a key for this stream.

        Args:
            purpose: what somebody wants to do.
            name: of the stream.
            key: that was shown; may be empty.
            address: of whoever showed it.

        Raises:
            ServiceError: forbidden; rate, if too many wrong keys came from this address.
        """
        fitting = [entry for entry in self._file.keys if entry.fits(name, purpose)]
        if self._file.path is None or (purpose == "play" and not fitting):
            return
        digest, now = hashed(key), datetime.now(UTC)
        self._guard.check(address, digest)
        if not any([hmac.compare_digest(entry.hash, digest) and not entry.expired(now) for entry in fitting]):  # noqa: C419
            self._guard.count(address)
            raise ServiceError("forbidden", f"a key that may {purpose} {name} is needed: append ?key=KEY to the stream's name")
        self._guard.remember(address, digest)


def _named(name: str) -> str:
    if name != ANY_STREAM and not STREAM_NAME.fullmatch(name):
        raise KeyFileError(
            f"{name!r} is no name of a stream: take up to 64 letters, digits, dashes and underscores, or {ANY_STREAM} for all"
        )
    return name
