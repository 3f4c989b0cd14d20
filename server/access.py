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
        self._guard.check(address)
        found = self._find(hashed(key))
        if found is None or found.expired(datetime.now(UTC)):
            self._guard.count(address)
            raise ServiceError("unauthorized", "this API key is unknown, revoked or expired; ask for a new one")
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
    """Slows the guessing of keys: an address with too many wrong ones has to wait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        times = self._wrong.get(_network(address))
        if not times or len(times) < WRONG_KEYS:
            return
        wait = times[0] + WRONG_KEYS_SECONDS - self._clock()
        if wait > 0:
            raise ServiceError("rate", f"{WRONG_KEYS} wrong API keys came from this address", retry_after=int(wait) + 1)

    def count(self, address: str) -> None:
        times = self._wrong.setdefault(_network(address), deque(maxlen=WRONG_KEYS))
        times.append(self._clock())
        self._wrong.move_to_end(_network(address))
        while len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)


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
