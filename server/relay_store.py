"""Relays on disk, in SQLite: what each was told to do, and how it ended. Knows nothing of how they run.

URLs are kept whole, with the stream keys in them: a relay goes on after a restart. Only this user may read the file.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from server.database import Database

MIGRATIONS = (
    """
    CREATE TABLE relays (
        number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of arrival
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        stream TEXT,  -- name of the stream of the RTMP server that it came with
        plan TEXT NOT NULL,
        created REAL NOT NULL,
        finished REAL,
        figures TEXT
    ) STRICT;
    CREATE INDEX relays_by_owner ON relays (owner, number);
    """,
)
"""See `server.database.Database`."""

Scale = Literal[2, 3, 4]

_COLUMNS = "id, owner, stream, plan, created, finished, figures"


@dataclass(frozen=True)
class Plan:
    """What a relay is to do."""

    source: str  # URLs
    target: str
    model: str
    scale: Scale
    encoder: str
    bitrate: int | None  # bit/s; None: by size and rate of the pictures
    keyframe_seconds: float
    pixels: int  # of an input picture, at most
    seconds: int | None = None  # that it lasts, at most


@dataclass(frozen=True)
class RelayRecord:
    """A relay as it is filed. Times are seconds since 1970."""

    id: str  # cannot be guessed
    owner: str
    stream: str | None  # name of the stream of the RTMP server that it came with
    plan: Plan
    created: float
    finished: float | None = None
    figures: dict[str, Any] | None = None  # see `server.relay.Relay.figures`; None: it has not ended


class RelayStore:
    """The file of all relays."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, MIGRATIONS)

    async def open(self) -> None:
        """Raises: DatabaseError: the file cannot be used."""
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def add(self, relay: RelayRecord) -> None:
        row = (relay.id, relay.owner, relay.stream, json.dumps(asdict(relay.plan)), relay.created)
        await self._database.change("INSERT INTO relays (id, owner, stream, plan, created) VALUES (?,?,?,?,?)", *row)

    async def find(self, relay_id: str, owners: Sequence[str]) -> RelayRecord | None:
        """The relay, if it belongs to one of these."""
        found = await self._select(f"WHERE id = ? AND owner IN ({_marks(owners)})", relay_id, *owners)
        return found[0] if found else None

    async def listed(self, owners: Sequence[str], limit: int, after: str | None) -> list[RelayRecord]:
        """Their relays, newest first; those older than the relay `after`, if given."""
        where = f"WHERE owner IN ({_marks(owners)})"
        if after is None:
            return await self._select(f"{where} ORDER BY number DESC LIMIT ?", *owners, limit)
        older = f"{where} AND number < (SELECT number FROM relays WHERE id = ?) ORDER BY number DESC LIMIT ?"  # noqa: S608
        return await self._select(older, *owners, after, limit)

    async def all(self) -> list[RelayRecord]:
        return await self._select("ORDER BY number")

    async def end(self, relay_id: str, finished: float, figures: dict[str, Any]) -> None:
        """Files how a relay ended."""
        statement = "UPDATE relays SET finished = ?, figures = ? WHERE id = ?"
        await self._database.change(statement, finished, json.dumps(figures), relay_id)

    async def remove(self, relay_id: str) -> None:
        await self._database.change("DELETE FROM relays WHERE id = ?", relay_id)

    async def _select(self, where: str, *values: Any) -> list[RelayRecord]:
        return [_record_from(row) for row in await self._database.rows(f"SELECT {_COLUMNS} FROM relays {where}", *values)]  # noqa: S608


def _marks(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))


def _record_from(row: tuple[Any, ...]) -> RelayRecord:
    relay_id, owner, stream, plan, created, finished, figures = row
    told = json.loads(figures) if figures else None
    return RelayRecord(relay_id, owner, stream, Plan(**json.loads(plan)), created, finished, told)
