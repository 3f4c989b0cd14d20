"""Who may do what: from the key that a request shows to the caller that it is.

Knows nothing of HTTP; `server.api._access` takes the key from the request.
"""

import hmac
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from server.errors import ServiceError
from server.keyfile import SCOPES, ApiKey, KeyFileError, Limits, Scope, hashed, read_keys

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0  # until a changed file of keys is noticed
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
        self._path, self._guard = path, _Guard(clock)
        self._stamp = _stamp(path) if path else None
        self._keys: tuple[ApiKey, ...] = read_keys(path) if path else ()

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return self._path is not None

    def caller(self, key: str | None, address: str) -> Caller:
        """Whose key it is.

        Args:
            key: what the request showed.
            address: of the client.

        Raises:
            ServiceError: unauthorized; rate, if too many wrong keys came from this address.
        """
        if self._path is None:
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

    async def watch(self) -> None:
        """Reads the file again whenever it changes, for ever. A damaged or missing file leaves the keys as they were."""
        while self._path is not None:
            await anyio.sleep(WATCH_SECONDS)
            stamp = await to_thread.run_sync(_stamp, self._path)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                self._keys = await to_thread.run_sync(read_keys, self._path)
                log.info("the file of API keys changed; it holds %d now", len(self._keys))
            except KeyFileError as error:
                log.error("%s; the keys stay as they were", error)

    def _find(self, digest: str) -> ApiKey | None:
        """Compares with every key, each in constant time: how long it takes tells nothing."""
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.hash, digest):
                found = key
        return found


class _Guard:
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


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
