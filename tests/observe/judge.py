"""Holds what is seen under an overload against the table of verdicts. Knows nothing of services or of load."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.observe.panels import Look
from tests.observe.verdicts import VERDICTS, Verdict

GONE_LOOKS = 3
"""In a row, after which something that should stay has not: one scrape that came too late is no movement."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """A verdict and where it belongs."""

    page: str
    panel: str
    verdict: Verdict

    def value(self, seen: Look) -> float | None:
        return self.verdict.value(seen, self.page, self.panel)

    def values(self, looks: list[Look]) -> list[float]:
        """Those that there are."""
        return [value for look in looks if (value := self.value(look)) is not None]

    def has_moved(self, before: list[Look], seen: Look) -> bool:
        now = self.value(seen)
        return now is not None and self.verdict.moved(self.values(before) or [0.0], now)

    def has_left(self, before: list[Look], seen: Look) -> bool:
        now = self.value(seen)
        return now is None or self.verdict.left(self.values(before), now)


class Judge:
    """Takes one look after the other."""

    def __init__(self, calm: list[Look], say: Say) -> None:
        """Args:
        calm: looks from before the overload, each line of which shows something.
        say: takes lines for a person to read.
        """
        self._calm, self._say, self._started = calm, say, time.monotonic()
        self._looks: list[Look] = []
        self._places = [Place(*where, verdict) for where, verdicts in VERDICTS.items() for verdict in verdicts]
        self._waiting = [place for place in self._places if place.verdict.move in ("RISES", "FALLS")]
        self._staying = [place for place in self._places if place.verdict.move == "STAYS"]
        self._gone: list[str] = []

    @property
    def satisfied(self) -> bool:
        """Whether everything has moved that has to."""
        return not self._waiting

    def see(self, seen: Look) -> None:
        """One more look."""
        self._looks.append(seen)
        for place in [place for place in self._waiting if place.has_moved(self._calm, seen)]:
            self._waiting.remove(place)
            self._tell(place, f"after {time.monotonic() - self._started:.0f} s")
        latest = self._looks[-GONE_LOOKS:]
        for place in list(self._staying):
            if len(latest) == GONE_LOOKS and all(place.has_left(self._calm, look) for look in latest):
                self._staying.remove(place)
                self._gone.append(self._complaint(place, "has moved"))

    def faults(self) -> list[str]:
        """What is not as the table says; prints what stayed and what is not judged."""
        for place in self._places:
            if place.verdict.move in ("STAYS", None):
                self._tell(place, place.verdict.why)
        return self._gone + [self._complaint(place, "has not moved") for place in self._waiting]

    def _tell(self, place: Place, words: str) -> None:
        before, now = (
            "nothing" if (value := place.value(look)) is None else f"{value:.4g}" for look in (self._calm[-1], self._looks[-1])
        )
        move = place.verdict.move or "not judged"
        self._say(f"{place.page:8} {place.panel:37} {place.verdict.letter} {move:10} {before:>9} -> {now:9} {words}")

    def _complaint(self, place: Place, what: str) -> str:
        verdict, (before, then) = place.verdict, (_range(place.values(looks)) for looks in (self._calm, self._looks))
        return (
            f"{place.page}: {place.panel} ({verdict.letter}, {dict(verdict.where)}) {what}, but {verdict.move}: {verdict.why}; "
            f"before: {before}, then: {then}"
        )


def _range(values: list[float]) -> str:
    return f"{min(values):.4g} to {max(values):.4g}" if values else "nothing"
