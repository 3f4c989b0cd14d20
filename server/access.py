"""Who may do what: from the key that a request shows to the caller that it is.

Knows nothing of HTTP; `server.api._access` takes the key from the request.
"""

import hmac
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

from server.errors import ServiceError, SettingsError
from server.keyfile import API_KEYS, SCOPES, ApiKey, Limits, Scope
from server.keylist import WatchedKeys, hashed

WRONG_KEYS = 10  # of one address within WRONG_KEYS_SECONDS, before it has to wait
WRONG_KEYS_SECONDS = 60.0
ADDRESSES = 10_000  # that are remembered


@dataclass(frozen=True)
class Caller:
    """Whose request it is."""

    name: str
    scopes: frozenset[Scope]
    limits: Limits

    def may(self, scope: Scope) -> bool:
        """Whether the scope was given; `admin` has all of them."""
        return scope in self.scopes or "admin" in self.scopes


T = TypeVar("T")

ANONYMOUS = Caller("anonymous", frozenset(SCOPES), Limits())
"""Everyone, where no keys are configured."""


class Keyring:
    """Tells callers by their keys; reads the file again when it changes."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        path: the file of keys; None: everyone is welcome.
        clock: seconds, for the guard against guessing.

        Raises:
            KeyFileError: see `read_keys`.
        """
        self._file, self._guard = WatchedKeys(API_KEYS, path), Guard(clock)
        self.watch = self._file.watch

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return self._file.path is not None

    def caller(self, key: str | None, address: str) -> Caller:
        """Whose key it is.

        Args:
            key: what the request showed.
            address: of the client.

        Raises:
            ServiceError: unauthorized; rate, if too many wrong keys came from this address.
        """
        if not self.required:
            return ANONYMOUS
        if not key:
            raise ServiceError("unauthorized", "an API key is needed: send the header Authorization: Bearer KEY")
        digest = hashed(key)
        self._guard.check(address, digest)
        found = self._find(digest)
        if found is None or found.expired(datetime.now(UTC)):
            self._guard.count(address)
            raise ServiceError("unauthorized", "this API key is unknown, revoked or expired; ask for a new one")
        self._guard.remember(address, digest)
        return Caller(found.name, frozenset(found.scopes), found.limits)

    def _find(self, digest: str) -> ApiKey | None:
        """Compares with every key, each in constant time: how long it takes tells nothing."""
        found = None
        for key in self._file.keys:
            if hmac.compare_digest(key.hash, digest):
                found = key
        return found


class HookSecret:
    """What the RTMP server shows with each of its calls, instead of an API key."""

    def __init__(self, path: Path | None, alone: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        path: the file that holds the secret; None: there is none.
        alone: only this machine reaches the service, so that its calls are taken without a secret.
        clock: seconds, for the guard against guessing.

        Raises:
            SettingsError: the file cannot be read, or is empty.
        """
        self._alone, self._guard = alone, Guard(clock)
        self._hash = hashed(_secret_of(path)) if path else None

    def check(self, secret: str, address: str) -> None:
        """Raises: ServiceError: unauthorized; rate, if too many wrong ones came from this address."""
        if self._hash is None:
            if self._alone:
                return
            raise ServiceError("unauthorized", "hooks are only taken with a secret here; set FOURFOLD_HOOK_SECRET_FILE")
        digest = hashed(secret)
        self._guard.check(address, digest)
        if not hmac.compare_digest(self._hash, digest):
            self._guard.count(address)
            raise ServiceError("unauthorized", "this is not the secret of the hooks; append ?secret=SECRET to their address")
        self._guard.remember(address, digest)


def _secret_of(path: Path) -> str:
    try:
        secret = path.read_text().strip()
    except (OSError, ValueError):
        secret = ""
    if not secret:
        raise SettingsError("FOURFOLD_HOOK_SECRET_FILE names a file that cannot be read, or is empty; put a secret into it")
    return secret


class Guard:
    """Slows the guessing of keys: after too many wrong ones, an address can only use those that it has used before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()  # when they came, by network
        self._used: OrderedDict[tuple[str, str], None] = OrderedDict()  # network and hash of good keys

    def check(self, address: str, digest: str) -> None:
        """Raises: ServiceError: rate."""
        network = _network(address)
        times = self._wrong.get(network)
        if not times or len(times) < WRONG_KEYS or (network, digest) in self._used:
            return
        wait = times[0] + WRONG_KEYS_SECONDS - self._clock()
        if wait > 0:
            raise ServiceError("rate", f"{WRONG_KEYS} wrong API keys came from this address", retry_after=int(wait) + 1)

    def count(self, address: str) -> None:
        """Notes a wrong key."""
        self._wrong.setdefault(_network(address), deque(maxlen=WRONG_KEYS)).append(self._clock())
        _touch(self._wrong, _network(address))

    def remember(self, address: str, digest: str) -> None:
        """Notes a good key."""
        self._used[_network(address), digest] = None
        _touch(self._used, (_network(address), digest))


def _touch(entries: OrderedDict[T, Any], key: T) -> None:
    """Makes an entry the newest one, and forgets the oldest of too many."""
    entries.move_to_end(key)
    while len(entries) > ADDRESSES:
        entries.popitem(last=False)


def _network(address: str) -> str:
    """IPv6 clients own whole networks, and would guess from one address after another."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address
