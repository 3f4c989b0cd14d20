"""Video jobs on disk, in SQLite: what they are and what became of them. Knows nothing of how they run.

How the file is read and written is in `server.database`.
"""

import json
import sqlite3
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from server.database import Database

State = Literal["queued", "running", "done", "failed", "cancelled"]

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of arrival
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        folder TEXT NOT NULL,
        options TEXT NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        finished REAL,
        crashes INTEGER NOT NULL DEFAULT 0,
        outcome TEXT NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_owner ON jobs (owner, number);
    CREATE INDEX jobs_by_state ON jobs (state, number);
    """,
)
"""See `server.database.Database`."""

MAX_CRASHES = 5
"""Ends of the whole service during one job, after which the job is no more started."""

_COLUMNS = "id, owner, folder, options, state, created, finished, outcome"


@dataclass(frozen=True)
class Outcome:
    """What became of a job so far."""

    frames: int = 0
    frames_in_all: int | None = None  # None: the container does not say
    fps: float = 0.0
    error: dict[str, str] | None = None  # code and message
    result: dict[str, Any] | None = None  # the figures of `fourfold video --json`
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A video to upscale. Times are seconds since 1970."""

    id: str  # cannot be guessed; never a path
    owner: str
    folder: str  # name of the folder of its files
    options: dict[str, Any]
    state: State
    created: float
    finished: float | None = None
    outcome: Outcome = field(default_factory=Outcome)


class JobStore:
    """The file of all jobs."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, MIGRATIONS, _recover)

    async def open(self) -> None:
        """Opens the file, or makes it. Jobs that were running when the service ended wait again.

        Raises:
            DatabaseError: it cannot be used.
        """
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def add(self, job: Job) -> None:
        row = (job.id, job.owner, job.folder, json.dumps(job.options), job.state, job.created, job.finished, _json(job.outcome))
        await self._database.change(f"INSERT INTO jobs ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", *row)  # noqa: S608

    async def find(self, job_id: str, owner: str) -> Job | None:
        """The job, if it is the owner's."""
        found = await self._select("WHERE id = ? AND owner = ?", job_id, owner)
        return found[0] if found else None

    async def listed(self, owner: str, limit: int, after: str | None) -> list[Job]:
        """The owner's jobs, newest first; those older than the job `after`, if given."""
        if after is None:
            return await self._select("WHERE owner = ? ORDER BY number DESC LIMIT ?", owner, limit)
        older = "WHERE owner = ? AND number < (SELECT number FROM jobs WHERE id = ? AND owner = ?) ORDER BY number DESC LIMIT ?"
        return await self._select(older, owner, after, owner, limit)

    async def all(self) -> list[Job]:
        return await self._select("ORDER BY number")

    async def waiting(self) -> int:
        """How many jobs wait to be run."""
        return int((await self._database.rows("SELECT COUNT(*) FROM jobs WHERE state = 'queued'"))[0][0])

    async def claim(self) -> Job | None:
        """The job that waits longest; it runs from now on."""
        rows = await self._database.rows(_CLAIM)
        return _job_from(rows[0]) if rows else None

    async def end(self, job_id: str, outcome: Outcome) -> State:
        """Files how a job ended; as what."""
        state: State = "failed" if outcome.error else "done"
        statement = "UPDATE jobs SET state = ?, finished = ?, outcome = ? WHERE id = ?"
        await self._database.change(statement, state, time.time(), _json(outcome), job_id)
        return state

    async def set_state(self, job_id: str, state: State) -> None:
        await self._database.change("UPDATE jobs SET state = ? WHERE id = ?", state, job_id)

    async def remove(self, job_id: str) -> None:
        await self._database.change("DELETE FROM jobs WHERE id = ?", job_id)

    async def _select(self, where: str, *values: Any) -> list[Job]:
        return [_job_from(row) for row in await self._database.rows(f"SELECT {_COLUMNS} FROM jobs {where}", *values)]  # noqa: S608


def _recover(database: sqlite3.Connection) -> None:
    told = Outcome(error={"code": "crashed", "message": f"the service ended {MAX_CRASHES} times while it ran this job"})
    give_up = "UPDATE jobs SET state = 'failed', outcome = ?, finished = ? WHERE state = 'queued' AND crashes >= ?"
    database.execute("UPDATE jobs SET crashes = crashes + 1, state = 'queued' WHERE state = 'running'")
    database.execute(give_up, (_json(told), time.time(), MAX_CRASHES))


_CLAIM = f"""
    UPDATE jobs SET state = 'running' WHERE number = (SELECT MIN(number) FROM jobs WHERE state = 'queued') RETURNING {_COLUMNS}
"""  # noqa: S608


def _json(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome))


def _job_from(row: tuple[Any, ...]) -> Job:
    job_id, owner, folder, options, state, created, finished, outcome = row
    stored = json.loads(outcome)
    return Job(job_id, owner, folder, json.loads(options), state, created, finished, Outcome(**stored | _notes(stored)))


def _notes(stored: dict[str, Any]) -> dict[str, Any]:
    return {"notes": tuple(stored.get("notes", ()))}
