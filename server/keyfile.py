"""The file of API keys: names, hashes, scopes, expiry, limits. The keys themselves are in no file.

Knows nothing of requests; `server.access` decides with it.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from models.errors import FourfoldError

Scope = Literal["images", "videos", "streams", "relays", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class KeyFileError(FourfoldError):
    """The file of API keys cannot be used, or does not hold what was asked for."""


@dataclass(frozen=True)
class Limits:
    """How much one key may take; None: as much as the service's own settings allow."""

    streams: int | None = None  # sessions at once
    bytes: int | None = None  # of the body of one request
    pixels: int | None = None  # of one input picture or frame
    seconds: int | None = None  # that one video plays, and that one session lasts


@dataclass(frozen=True)
class ApiKey:
    """One line of the file."""

    name: str
    hash: str  # SHA-256 of the key, in hexadecimal; a random key of 256 bits needs no salt
    scopes: tuple[Scope, ...]
    expires: str | None = None  # ISO 8601, UTC
    limits: Limits = field(default_factory=Limits)

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and datetime.fromisoformat(self.expires) <= now


def hashed(key: str) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Raises: KeyFileError: the file cannot be read, or is not what `fourfold keys` writes."""
    try:
        return tuple(map(_key_from, json.loads(path.read_text())["keys"]))
    except OSError as error:
        raise KeyFileError(f"the file of API keys cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise KeyFileError("the file of API keys is damaged; restore it, or make a new one with `fourfold keys add`") from error


def add_key(path: Path, name: str, scopes: Iterable[Scope], expires: datetime | None, limits: Limits) -> str:
    """Makes a key, files its hash and gives the key: it cannot be had again.

    Raises:
        KeyFileError: the name is taken or no name, or the file cannot be written.
    """
    if not NAME.fullmatch(name):
        raise KeyFileError(f"{name!r} is no name for a key: take up to 64 letters, digits, dots, dashes and underscores")
    key = f"ff_{secrets.token_urlsafe(32)}"
    stamp = expires.astimezone(UTC).isoformat(timespec="seconds") if expires else None
    entry = ApiKey(name, hashed(key), tuple(dict.fromkeys(scopes)), stamp, limits)

    def with_key(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if any(other.name == name for other in keys):
            raise KeyFileError(f"there is a key called {name} already; revoke it first, or take another name")
        return (*keys, entry)

    _change(path, with_key)
    return key


def revoke_key(path: Path, name: str) -> None:
    """Raises: KeyFileError: there is no such key, or the file cannot be written."""

    def without_key(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise KeyFileError(f"there is no key called {name}; there are: {', '.join(key.name for key in keys) or 'none'}")
        return left

    _change(path, without_key)


def key_rows(path: Path) -> list[dict[str, Any]]:
    """What `fourfold keys list` shows: all but the hashes."""
    return [{name: value for name, value in asdict(key).items() if name != "hash"} for key in read_keys(path)]


def parse_scopes(names: Iterable[str]) -> list[Scope]:
    """Raises: KeyFileError: there is no such scope."""
    for name in names:
        if name not in SCOPES:
            raise KeyFileError(f"{name!r} is no scope; there are {', '.join(SCOPES)}")
    return [scope for scope in SCOPES if scope in names]


def parse_limits(texts: Iterable[str]) -> Limits:
    """Limits from WHAT=N each.

    Raises:
        KeyFileError: not of that form.
    """
    known = [limit.name for limit in fields(Limits)]
    given = {}
    for text in texts:
        what, _, number = text.partition("=")
        if what not in known or not number.isdecimal() or not int(number):
            raise KeyFileError(f"{text!r} is no limit; write WHAT=N with a whole number from 1, WHAT one of {', '.join(known)}")
        given[what] = int(number)
    return Limits(**given)


def _change(path: Path, change: Callable[[tuple[ApiKey, ...]], tuple[ApiKey, ...]]) -> None:
    """Reads, changes and replaces the file; of two at once, the second waits."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            keys = change(read_keys(path) if path.exists() else ())
            _replace(path, json.dumps({"keys": [asdict(key) for key in keys]}, indent=2))
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyFileError(f"the file of API keys cannot be written: {error.strerror}") from error


def _replace(path: Path, text: str) -> None:
    """Readers see the old file or the new one, and only this user sees either."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _key_from(entry: dict[str, Any]) -> ApiKey:
    """Raises: KeyError, TypeError or ValueError if it is none."""
    scopes = tuple(scope for scope in SCOPES if scope in entry["scopes"])
    digest = bytes.fromhex(entry["hash"]).hex()
    key = ApiKey(str(entry["name"]), digest, scopes, entry.get("expires"), Limits(**entry.get("limits") or {}))
    key.expired(datetime.now(UTC))
    return key
