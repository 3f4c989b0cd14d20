"""The parts of the running service, as one typed object. `server.app` composes it; handlers get it from `service_of`."""

import asyncio
import time
from dataclasses import dataclass, field

from server.access import HookSecret, Keyring
from server.engine_process import EngineSupervisor
from server.errors import ServiceError
from server.jobs import Jobs
from server.listing import EngineReports
from server.metrics import Metrics
from server.relays import Relays
from server.settings import Settings
from server.stream_keys import StreamKeyring
from server.streams.pool import Workers


class Draining(asyncio.Event):
    """Set once the service is to stop: what runs may end, nothing new is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._until = 0.0

    def begin(self, seconds: float) -> None:
        """Args: seconds: that what runs now has to end."""
        self._until = time.monotonic() + seconds
        self.set()

    def seconds_left(self) -> float:
        """0 if it has not begun: then nobody was promised any time."""
        return max(0.0, self._until - time.monotonic())


@dataclass(frozen=True)
class Service:
    """What lives as long as the process."""

    settings: Settings
    metrics: Metrics
    keyring: Keyring
    engine: EngineSupervisor
    engine_reports: EngineReports
    workers: Workers
    jobs: Jobs
    relays: Relays
    stream_keys: StreamKeyring
    hook_secret: HookSecret
    draining: Draining = field(default_factory=Draining)

    def check_ready(self) -> None:
        """Raises: ServiceError: restart; engine_unavailable: it starts, or starts again."""
        if self.draining.is_set():
            raise ServiceError("restart", "the service is shutting down; try again", retry_after=5)
        if not self.engine.ready:
            raise ServiceError("engine_unavailable", "the engine is being started; try again", retry_after=5)
