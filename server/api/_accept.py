"""Which of the types that we can write a client likes best (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence


def best_type(accept: str, offered: Sequence[str]) -> str | None:
    """The media type with the highest quality, of equal ones the first; None if the client wants none of them.

    Args:
        accept: the header's value; empty if there is none.
        offered: media types, the preferred one first.
    """
    ranges = [_parsed(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    qualities = [_quality(kind, ranges) for kind in offered]
    best = max(qualities)
    return offered[qualities.index(best)] if best > 0 else None


def _parsed(media_range: str) -> tuple[str, float]:
    """A media range and its quality; what is no number counts as none."""
    name, *parameters = (part.strip().lower() for part in media_range.split(";"))
    quality = next((value for key, _, value in (parameter.partition("=") for parameter in parameters) if key == "q"), "1")
    try:
        return name, min(1.0, max(0.0, float(quality)))
    except ValueError:
        return name, 0.0


def _quality(kind: str, ranges: list[tuple[str, float]]) -> float:
    """That of the most specific range that covers `kind`."""
    for pattern in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        found = [quality for name, quality in ranges if name == pattern]
        if found:
            return max(found)
    return 0.0
