"""A file that holds a list of hashed keys: read, changed by one at a time, and read again when it changes.

Knows nothing of what the keys are for; `server.keyfile` has those of the API, `server.stream_keys` those of streams.
"""

import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import anyio
from anyio import to_thread

from models.errors import FourfoldError

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0  # until a changed file is noticed

Key = TypeVar("Key")  # a dataclass
Keys = tuple[Key, ...]


class KeyFileError(FourfoldError):
    """A file of keys cannot be used, or does not hold what was asked for."""


def hashed(key: str) -> str:
    """What a file holds of a key: its SHA-256, in hexadecimal; a random key of 256 bits needs no salt."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class KeyList(Generic[Key]):
    """What one kind of file holds, and how it is called."""

    title: str  # such as "the file of API keys"
    command: str  # that makes a new one
    parse: Callable[[dict[str, Any]], Key]  # raises KeyError, TypeError or ValueError if it is none

    def read(self, path: Path) -> Keys[Key]:
        """Raises: KeyFileError: the file cannot be read, or is not what the command writes."""
        try:
            return tuple(map(self.parse, json.loads(path.read_text())["keys"]))
        except OSError as error:
            raise KeyFileError(f"{self.title} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise KeyFileError(f"{self.title} is damaged; restore it, or make a new one with `{self.command}`") from error

    def change(self, path: Path, change: Callable[[Keys[Key]], Keys[Key]]) -> None:
        """Reads, changes and replaces the file; of two at once, the second waits.

        Raises:
            KeyFileError: it cannot be read or written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                keys = change(self.read(path) if path.exists() else ())
                _replace(path, json.dumps({"keys": [asdict(key) for key in keys]}, indent=2))  # type: ignore[call-overload]
            finally:
                os.close(folder)
        except OSError as error:
            raise KeyFileError(f"{self.title} cannot be written: {error.strerror}") from error


class WatchedKeys(Generic[Key]):
    """The keys of a file as they are now."""

    def __init__(self, kind: KeyList[Key], path: Path | None) -> None:
        """Args: path: None: there is no file, and there are no keys.

        Raises:
            KeyFileError: see `KeyList.read`.
        """
        self._kind, self.path = kind, path
        self._stamp = _stamp(path) if path else None
        self.keys: Keys[Key] = kind.read(path) if path else ()

    async def watch(self) -> None:
        """Reads the file again whenever it changes, for ever. A damaged or missing file leaves the keys as they were."""
        while self.path is not None:
            await anyio.sleep(WATCH_SECONDS)
            stamp = await to_thread.run_sync(_stamp, self.path)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                self.keys = await to_thread.run_sync(self._kind.read, self.path)
                log.info("%s changed; it holds %d now", self._kind.title, len(self.keys))
            except KeyFileError as error:
                log.error("%s; the keys stay as they were", error)


def _replace(path: Path, text: str) -> None:
    """Readers see the old file or the new one. A first one is for this user alone; later ones are for whom it was opened."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        if path.exists():
            before = path.stat()
            if os.geteuid() == 0:
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
        os.fsync(file.fileno())
    partial.replace(path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
