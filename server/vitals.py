"""What is looked up each time that metrics are read: jobs, room on the disk, cards. All else is counted as it happens."""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

from server.cards import Cards, CardState
from server.errors import ServiceError
from server.jobs import Jobs
from server.metrics import Metrics


class Vitals:
    """Looks things up for the metrics; what cannot be had just now is left as it was."""

    def __init__(self, metrics: Metrics, jobs: Jobs, data_folder: Path) -> None:
        self._metrics, self._jobs, self._folder, self._cards = metrics, jobs, data_folder, Cards()
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        """Brings the metrics up to date. The event loop waits for no disk and no driver."""
        async with self._looking:
            with suppress(ServiceError):  # the disk of the jobs fails; that is told by other metrics
                self._metrics.note_jobs(await self._jobs.count())
            disk, cards = await asyncio.to_thread(self._read)
            if disk:
                self._metrics.note_disk(*disk, self._jobs.storage.used_bytes)
            self._metrics.note_cards(cards)

    def _read(self) -> tuple[tuple[int, int] | None, list[CardState]]:
        """Bytes that are free on the disk of the data folder, and of all; and the cards."""
        disk = None
        with suppress(OSError):
            usage = shutil.disk_usage(self._folder)
            disk = usage.free, usage.total
        return disk, self._cards.read()
