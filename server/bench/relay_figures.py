"""What the two ends of live streams noted, as figures: latency, what was added to it, losses, sound against picture."""

import statistics
from itertools import pairwise
from typing import Any

import numpy as np

from server.bench.live_clip import BEEP_EVERY, RATE
from server.bench.measure import digits, spread

Noted = dict[str, Any]
"""What a publisher or a player of `server.bench.live_clip` prints."""


def round_figures(
    names: list[str],
    sent: list[Noted],
    references: list[Noted],
    players: list[Noted],
    window: tuple[float, float],
    samples: list[dict[str, Any]],
) -> dict[str, Any]:
    """A round: each list has an item for each stream; `samples` are what the service said meanwhile."""
    streams = []
    for name, publisher, reference, player in zip(names, sent, references, players, strict=True):
        said = [sample["relays"].get(name) for sample in samples if sample.get("relays")]
        figures = stream_figures(publisher, reference, player, window)
        streams.append({"name": name, **figures, "service": _service_figures(said)})
    memory = [sample["bytes"] for sample in samples if "bytes" in sample]
    seconds = window[1] - window[0]
    cores = [samples[-1]["cpu_seconds"] - samples[0]["cpu_seconds"]] if memory else []
    return {
        "seconds": digits(seconds),
        "streams": streams,
        "memory_bytes": memory,
        "service_cores": digits(cores[0] / seconds) if cores else None,
    }


def stream_figures(sent: Noted, reference: Noted, player: Noted, window: tuple[float, float]) -> dict[str, Any]:
    """One stream: of the pictures that were made within the window (time.monotonic), what came of each."""
    counted = {int(number) for number, at in sent["sent"] if window[0] <= at < window[1]}
    plain, ours = _ages(reference, counted), _ages(player, counted)
    added = [1000 * (ours[number] - plain[number]) for number in sorted(ours.keys() & plain.keys())]
    return {
        "size": player["size"],
        "sent": len(counted),
        "lost": len(counted) - len(ours),
        "repeated": sum(int(number) in counted for number, *_ in player["pictures"]) - len(ours),
        "unread": player["unread"],
        "longest_gap_ms": _longest_gap_ms(player, counted),
        "latency_ms": percentiles([1000 * age for age in ours.values()]),
        "reference": {"lost": len(counted) - len(plain), "latency_ms": percentiles([1000 * age for age in plain.values()])},
        "added_ms": percentiles(added),
        "sound_ahead_ms": _sound_ahead_ms(player),
        "reference_sound_ahead_ms": _sound_ahead_ms(reference),
        "decode_ms": percentiles(player["decode_ms"]),
        "reference_decode_ms": percentiles(reference["decode_ms"]),
    }


def percentiles(values: list[float]) -> dict[str, float] | None:
    """p50, p95, p99 and the largest one; None of nothing."""
    if not values:
        return None
    found = np.percentile(values, [50, 95, 99, 100])
    return {name: digits(float(value)) for name, value in zip(("p50", "p95", "p99", "max"), found, strict=True)}


def _ages(player: Noted, counted: set[int]) -> dict[int, float]:
    """Number -> seconds, when the picture was seen for the first time."""
    ages: dict[int, float] = {}
    for number, age, _, _ in player["pictures"]:
        if int(number) in counted:
            ages.setdefault(int(number), age)
    return ages


def _longest_gap_ms(player: Noted, counted: set[int]) -> float | None:
    """Between two pictures' arrivals."""
    arrivals = [at for number, _, _, at in player["pictures"] if int(number) in counted]
    return digits(1000 * max(b - a for a, b in pairwise(arrivals))) if len(arrivals) > 1 else None


def _sound_ahead_ms(player: Noted) -> dict[str, float] | None:
    """By how much a beep begins before its picture, by their time stamps; below zero: after it."""
    pictures = {int(number): pts for number, _, pts, _ in reversed(player["pictures"]) if int(number) % BEEP_EVERY == 0}
    nearest = [min((pts - beep for beep in player["beeps"]), key=abs, default=None) for pts in pictures.values()]
    apart = [1000 * off for off in nearest if off is not None and abs(off) < BEEP_EVERY / RATE / 2]
    if not apart:
        return None
    return {
        "median": digits(statistics.median(apart)),
        "min": digits(min(apart)),
        "max": digits(max(apart)),
        "beeps": len(apart),
    }


def _service_figures(said: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """What the service says of the relay: counts of the time between the first and the last sample, the rest at the end."""
    known = [relay for relay in said if relay]
    if not known:
        return None
    first, last = known[0], known[-1]
    frames = {name: last["frames"][name] - first["frames"][name] for name in ("in", "delivered", "held", "failed")}
    drops = {reason: count - first["drops"].get(reason, 0) for reason, count in last["drops"].items()}
    names = ("state", "model", "engine", "precision", "latency_ms", "fps_in", "fps_out", "reconnects")
    return {**{name: last[name] for name in names}, "frames": frames, "drops": {k: n for k, n in drops.items() if n}}


def summary(result: dict[str, Any]) -> list[list[str]]:
    """A row for each stream of each round, under COLUMNS."""
    return [
        [f"{number}: {stream['name']}", *_row(stream)]
        for number, each in enumerate(result["rounds"], 1)
        for stream in each["streams"]
    ]


COLUMNS = [
    *("stream", "size", "made", "lost", "service: delivered / held", "service: drops", "latency p50 / p95 / p99 / max ms"),
    *(
        "RTMP server alone",
        "added p50 / p95 / p99 / max ms",
        "sound ahead ms",
        "alone",
        "longest gap ms",
        "player: decode p50 ms",
    ),
]


def _row(stream: dict[str, Any]) -> list[str]:
    service = stream["service"]
    drops = ", ".join(f"{reason} {count}" for reason, count in service["drops"].items()) if service else ""
    return [
        "x".join(map(str, stream["size"])),
        str(stream["sent"]),
        str(stream["lost"]),
        f"{service['frames']['delivered']} / {service['frames']['held']}" if service else "–",
        drops or "–",
        _four(stream["latency_ms"]),
        _four(stream["reference"]["latency_ms"]),
        f"**{_four(stream['added_ms'])}**",
        _middle(stream["sound_ahead_ms"]),
        _middle(stream["reference_sound_ahead_ms"]),
        "–" if stream["longest_gap_ms"] is None else f"{stream['longest_gap_ms']:.0f}",
        "–" if stream["decode_ms"] is None else f"{stream['decode_ms']['p50']:.3g}",
    ]


def notes(result: dict[str, Any]) -> list[str]:
    """What no stream alone has: the spread of the rounds, the service's memory and processor time."""
    lines = []
    medians = [s["added_ms"]["p50"] for each in result["rounds"] for s in each["streams"] if s["added_ms"]]
    if medians:
        found = spread(medians)
        lines.append(f"Median added latency: {found['median']:.3g} ms ({found['min']:.3g} to {found['max']:.3g}).")
    for number, each in enumerate(result["rounds"], 1):
        if memory := each["memory_bytes"]:
            sizes = ", ".join(f"{size / 2**20:.0f}" for size in memory)
            lines.append(
                f"Round {number}: {each['service_cores']:.3g} cores taken by the service; its memory (PSS), MiB: {sizes}."
            )
    return lines


def _four(figures: dict[str, float] | None) -> str:
    return " / ".join(f"{value:.3g}" for value in figures.values()) if figures else "–"


def _middle(figures: dict[str, float] | None) -> str:
    return f"{figures['median']:.3g} ({figures['min']:.3g} to {figures['max']:.3g})" if figures else "–"
