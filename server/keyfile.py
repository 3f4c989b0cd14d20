"""The file of API keys: names, hashes, scopes, expiry, limits. The keys themselves are in no file.

Knows nothing of requests; `server.access` decides with it. How such a file is read and written is in `server.keylist`.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from server.keylist import KeyFileError, KeyList, hashed

Scope = Literal["images", "videos", "streams", "relays", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Limits:
    """How much one key may take; None: as much as the service's own settings allow."""

    streams: int | None = None  # sessions at once, and relays at once
    bytes: int | None = None  # of the body of one request
    pixels: int | None = None  # of one input picture or frame
    seconds: int | None = None  # that one video plays, and that one session or relay lasts


@dataclass(frozen=True)
class ApiKey:
    """One line of the file."""

    name: str
    hash: str  # see `server.keylist.hashed`
    scopes: tuple[Scope, ...]
    expires: str | None = None  # ISO 8601, UTC
    limits: Limits = field(default_factory=Limits)

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and datetime.fromisoformat(self.expires) <= now


def _key_from(entry: dict[str, Any]) -> ApiKey:
    scopes = tuple(scope for scope in SCOPES if scope in entry["scopes"])
    digest = bytes.fromhex(entry["hash"]).hex()
    key = ApiKey(str(entry["name"]), digest, scopes, entry.get("expires"), Limits(**entry.get("limits") or {}))
    key.expired(datetime.now(UTC))
    return key


API_KEYS = KeyList("the file of API keys", "fourfold keys add", _key_from)


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Raises: KeyFileError: the file cannot be read, or is not what `fourfold keys` writes."""
    return API_KEYS.read(path)


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

    API_KEYS.change(path, with_key)
    return key


def revoke_key(path: Path, name: str) -> None:
    """Raises: KeyFileError: there is no such key, or the file cannot be written."""

    def without_key(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise KeyFileError(f"there is no key called {name}; there are: {', '.join(key.name for key in keys) or 'none'}")
        return left

    API_KEYS.change(path, without_key)


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
