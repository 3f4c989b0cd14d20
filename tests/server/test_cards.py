"""Cards are asked through NVIDIA's library; where there is none, or a card tells little, nobody is bothered."""

from types import SimpleNamespace
from typing import Any

import pynvml

from server.cards import Cards, CardState


class Driver:
    """Stands for the library: the first card tells everything, the second one (a part of a card) only its memory."""

    NVMLError = pynvml.NVMLError

    def __init__(self, code: int | None = None) -> None:
        self.code = code  # of the error that it starts with

    def nvmlInit(self) -> None:  # noqa: N802
        if self.code is not None:
            raise pynvml.NVMLError(self.code)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "H200"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return self._of_the_first(handle, SimpleNamespace(gpu=75, memory=10))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=5, total=100)

    def nvmlDeviceGetEncoderStats(self, handle: int) -> Any:  # noqa: N802
        return self._of_the_first(handle, [2, 60, 5000])

    def _of_the_first(self, handle: int, value: Any) -> Any:
        if handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value


def test_what_each_card_tells() -> None:
    whole, part = Cards(Driver()).read()
    assert whole == CardState("0 H200", 0.75, 5, 100, 2)
    assert part == CardState("1 H200", None, 5, 100, None)


def test_without_a_driver_there_are_no_cards() -> None:
    assert Cards(Driver(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)).read() == []
    assert Cards(Driver(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)).read() == []


def test_the_driver_of_this_machine_is_asked() -> None:
    for card in Cards().read():
        assert card.memory_total_bytes is None or card.memory_total_bytes > 0
