"""An SQLite file with numbered versions of its schema, used by one thread of its own. Knows nothing of what is in it.

All calls go through that thread, so the event loop never waits for the disk.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from models.errors import FourfoldError
from server.errors import ServiceError

T = TypeVar("T")


class DatabaseError(FourfoldError):
    """The file cannot be used."""


class Database:
    """One file."""

    def __init__(
        self, path: Path, migrations: Sequence[str], recover: Callable[[sqlite3.Connection], object] = lambda _: None
    ) -> None:
        """Args:
        path: of the file, which only this user may read.
        migrations: how to get from each version of the schema to the next; PRAGMA user_version tells how many were done.
        recover: puts right what an earlier process left.
        """
        self._path, self._migrations, self._recover = path, migrations, recover
        self._thread = ThreadPoolExecutor(1, path.stem)
        self._connection: sqlite3.Connection

    async def open(self) -> None:
        """Opens the file, or makes it.

        Raises:
            DatabaseError: it is damaged, cannot be written, or comes from a later version of this program.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def close(self) -> None:
        await self.do(lambda connection: connection.close())
        await asyncio.to_thread(self._thread.shutdown)

    async def do(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """What `call` gives.

        Raises:
            ServiceError: storage: the disk is full, or fails.
        """
        try:  # shielded: what was asked for is done, also when a stop cancels whoever waits for it
            loop = asyncio.get_running_loop()
            return await asyncio.shield(loop.run_in_executor(self._thread, lambda: call(self._connection)))
        except sqlite3.DatabaseError as error:
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            why = "the disk of the service is full" if full else "the service cannot file its work"
            raise ServiceError("storage", f"{why}; try later, or tell its operator") from error

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return await self.do(lambda connection: connection.execute(query, values).fetchall())

    async def change(self, statement: str, *values: Any) -> None:
        """Does what a statement says."""
        await self.do(lambda connection: connection.execute(statement, values))

    def _open(self) -> None:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would let others of this machine read it
            self._connection = sqlite3.connect(self._path, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise DatabaseError(f"{self._path} cannot be used ({error}); move it away to start with an empty one") from error
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._migrate()
            self._recover(self._connection)
        except sqlite3.Error as error:
            self._connection.close()
            raise DatabaseError(f"{self._path} cannot be used ({error}); move it away to start with an empty one") from error

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(self._migrations):
            self._connection.close()
            raise DatabaseError(f"{self._path} was written by a later version of Fourfold (schema {version}); update this one")
        for number, script in enumerate(self._migrations[version:], version + 1):
            self._connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
