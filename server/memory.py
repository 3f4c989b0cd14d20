"""What requests may hold in memory at once, all together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.errors import ServiceError

Take = Callable[[int], None]
"""Takes so many bytes more; raises ServiceError, busy, if there are not so many left."""


class MemoryBudget:
    """Bytes that are shared by many requests: who finds none left is sent away at once, so nobody waits for anybody."""

    def __init__(self, limit_bytes: int) -> None:
        self.free_bytes = limit_bytes

    @contextmanager
    def hold(self) -> Iterator[Take]:
        """The share of one request, which grows as it takes; all of it is given back at the end."""
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if size > self.free_bytes:
                raise ServiceError("busy", "as many requests are held in memory as there is room for; try again", retry_after=2)
            self.free_bytes -= size
            held += size

        try:
            yield take
        finally:
            self.free_bytes += held
