"""How busy the NVIDIA cards are, as their driver tells it. Computes nothing there: no context is made on a card.

Knows nothing of engines or of metrics.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CardState:
    """One card, now. None: this card does not tell."""

    device: str  # its number and name
    utilization: float | None  # share of the last moment in which something was computed, 0 to 1
    memory_bytes: int | None  # that are taken, by whomever
    memory_total_bytes: int | None
    encoder_sessions: int | None  # of NVENC


class Cards:
    """The cards that this process may see; none where there is no driver, or no `nvidia-ml-py`."""

    def __init__(self, library: Any = None) -> None:
        """Args: library: that stands for `pynvml`."""
        self._library = library or _import_library()
        self._handles: dict[str, Any] | None = None  # by `CardState.device`; None: not looked for yet

    def read(self) -> list[CardState]:
        """Asks the driver; takes some milliseconds, the first time longer. One thread at a time."""
        if self._library is None:
            return []
        if self._handles is None:
            self._handles = self._find()
        return [self._state(device, handle) for device, handle in self._handles.items()]

    def _find(self) -> dict[str, Any]:
        library = self._library
        try:
            library.nvmlInit()
            handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
            return {f"{index} {library.nvmlDeviceGetName(handle)}": handle for index, handle in enumerate(handles)}
        except library.NVMLError:  # no driver: then there will be none before a restart either
            return {}

    def _state(self, device: str, handle: Any) -> CardState:
        library = self._library
        busy = self._ask(library.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(library.nvmlDeviceGetMemoryInfo, handle)
        encoder = self._ask(library.nvmlDeviceGetEncoderStats, handle)
        return CardState(
            device,
            busy.gpu / 100 if busy else None,
            memory.used if memory else None,
            memory.total if memory else None,
            encoder[0] if encoder else None,
        )

    def _ask(self, question: Callable[[Any], Any], handle: Any) -> Any:
        try:
            return question(handle)
        except self._library.NVMLError:  # a part of a card does not tell all, and one that was lost tells nothing
            return None


def _import_library() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml
