"""What became of each frame of a relay: counted by all of its threads, told to the api process by one.

Knows nothing of how frames are made.
"""

import threading
from collections import Counter
from typing import Any

from server.streams.relay_protocol import RelayDrop, message


class Ledger:
    """Counts frames. Each that came ends as delivered, dropped or failed, or is under way; pictures that are held come on
    top."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._clear()

    def came(self) -> None:
        """A frame's bytes are here."""
        with self._lock:
            self._in += 1
            self._under_way += 1

    def delivered(self, seconds: tuple[float, ...]) -> None:
        """The target has taken a frame.

        Args:
            seconds: from its bytes in to its bytes out, and of each stage: decode, queue, infer, encode, send.
        """
        with self._lock:
            self._delivered.append([round(value, 6) for value in seconds])
            self._under_way -= 1

    def dropped(self, reason: RelayDrop, frames: int = 1) -> None:
        """Frames that will not be delivered."""
        with self._lock:
            self._dropped[reason] += frames
            self._under_way -= frames

    def failed(self) -> None:
        """A frame that could not be upscaled."""
        with self._lock:
            self._failed += 1
            self._under_way -= 1

    def held(self) -> None:
        """The target has taken the last picture once more."""
        with self._lock:
            self._held += 1

    def told(self) -> dict[str, Any]:
        """The message about what happened since the last one."""
        with self._lock:
            words = message(
                "frames",
                delivered=self._delivered,
                held=self._held,
                dropped=dict(self._dropped),
                failed=self._failed,
                under_way=self._under_way,
                **{"in": self._in},
            )
            self._clear()
        return words

    def _clear(self) -> None:
        self._in = self._held = self._failed = 0
        self._delivered: list[list[float]] = []
        self._dropped: Counter[RelayDrop] = Counter()
