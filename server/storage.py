"""Folders for uploads and results under one quota. Knows nothing of jobs.

All of `Storage` may block; the event loop calls it through `finished`.
"""

import asyncio
import errno
import secrets
import shutil
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from server.errors import ServiceError

P = ParamSpec("P")
T = TypeVar("T")


class Storage:
    """Numbered folders below one, and the bytes that lie in each."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """That all folders hold together."""
        with self._lock:
            return sum(self._bytes.values())

    def open(self, owned: Container[str]) -> None:
        """Makes the folder, removes what lies in it and nobody owns, and measures the rest."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in list(self._folder.iterdir()):
            if path.name in owned:
                self._bytes[path.name] = _size(path)
            else:
                shutil.rmtree(path, ignore_errors=True)

    def create(self) -> str:
        """Makes a folder; its name.

        Raises:
            ServiceError: storage: no room for it.
        """
        name = secrets.token_hex(16)
        with writing():
            self.path(name).mkdir()
        self.charge(name, 0)
        return name

    def path(self, name: str) -> Path:
        return self._folder / name

    def charge(self, name: str, size: int) -> None:
        """Tells that a folder holds `size` bytes now.

        Raises:
            ServiceError: storage: all folders together hold more than the quota.
        """
        with self._lock:
            self._bytes[name] = size
            total = sum(self._bytes.values())
        if total > self._limit:
            raise ServiceError(
                "storage", f"uploads and results may take {self._limit} bytes in all; remove videos, or try later"
            )

    def measure(self, name: str) -> None:
        """Charges what a folder really holds. Raises: ServiceError: see `charge`."""
        self.charge(name, _size(self.path(name)))

    def keep_only(self, name: str, *kept: str) -> None:
        """Removes all files of a folder but those named. Raises: OSError: the disk failed, or there is no folder."""
        for path in self.path(name).iterdir():
            if path.name not in kept:
                path.unlink()
        with self._lock:
            self._bytes[name] = _size(self.path(name))

    def remove(self, name: str) -> None:
        """Removes a folder with all that is in it."""
        shutil.rmtree(self.path(name), ignore_errors=True)
        with self._lock:
            self._bytes.pop(name, None)


@contextmanager
def writing() -> Iterator[None]:
    """Turns what the machine lacks into a ServiceError: storage for space, busy for descriptors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ServiceError("storage", "the disk of the service is full; try later, or tell its operator") from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ServiceError("busy", "the service has too many files open; try later", retry_after=5) from error
        raise


async def finished(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls in a thread, and comes back only when the call has: also when it is cancelled meanwhile."""
    calling = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(calling)
    except asyncio.CancelledError:
        await asyncio.wait([calling])
        raise


def _size(folder: Path) -> int:
    """Bytes in the files of a folder; some may vanish meanwhile."""
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
