"""The parts of the running service, as one typed object. `server.app` composes it; handlers get it from `service_of`."""

import asyncio
from dataclasses import dataclass, field

from server.access import Keyring
from server.errors import ServiceError
from server.metrics import Metrics
from server.settings import Settings


@dataclass(frozen=True)
class Service:
    """What lives as long as the process."""

    settings: Settings
    metrics: Metrics
    keyring: Keyring
    draining: asyncio.Event = field(default_factory=asyncio.Event)  # SIGTERM came: what runs may end, nothing new is taken

    def check_ready(self) -> None:
        """Raises: ServiceError: restart."""
        if self.draining.is_set():
            raise ServiceError("restart", "the service is shutting down; try again", retry_after=5)
