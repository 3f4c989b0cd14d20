"""`fourfold bench engines`: one call, and many at once, of every engine that works here, beside peers and its limit."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, get_args

from engines.runner import EngineSpec, Precision
from models.colour import Colour
from models.errors import FourfoldError
from models.registry import Model, find_model
from server.bench.contenders import Contender, Field, Row, open_engines, open_peers
from server.bench.machine import describe
from server.bench.measure import digits, in_turn, paced, ratios, spread
from server.bench.peers import PEERS, STOCK
from server.bench.roofline import Device, Meter, Needs, Peaks, count, meters, peaks_of
from server.catalogue import cores, find_graphs

Size = tuple[int, int]
"""Width and height of input frames, pixels, both even."""


@dataclass(frozen=True)
class EngineBench:
    """What to measure, and how long.

    Attributes:
        models: names of the registry, all at `scale`.
        scale: output pixels for one input pixel, in each direction.
        sizes: of input frames.
        peers: names of those that are to stand beside; all if empty.
        rounds: how often everything is measured.
        seconds: of one thing in one round.
    """

    models: Sequence[str] = ("xlsr",)
    scale: int = 4
    sizes: Sequence[Size] = ((480, 270),)
    peers: Sequence[str] = ()
    rounds: int = 10
    seconds: float = 0.5


def parse_size(text: str) -> Size:
    """`WIDTHxHEIGHT`. Raises ValueError."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)) or int(width) % 2 or int(height) % 2:
        raise ValueError(f"{text} is not WIDTHxHEIGHT in even numbers")
    return int(width), int(height)


def bench_engines(bench: EngineBench, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures all models at all sizes; the result is what `--json` prints.

    Raises:
        UnknownModelError: no model of that name at that scale.
        FourfoldError: no peer of that name.
    """
    for name in set(bench.peers) - {peer.name for peer in PEERS}:
        raise FourfoldError(f"there is no peer {name}; there are {', '.join(dict.fromkeys(peer.name for peer in PEERS))}")
    models = [find_model(name, bench.scale) for name in bench.models]
    about = describe()
    cases = [_case(bench, model, size, say) for model in models for size in bench.sizes]
    return {"kind": "engines", **about, "settings": {"rounds": bench.rounds, "seconds": bench.seconds}, "cases": cases}


def _case(bench: EngineBench, model: Model, size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    """One model at one size."""
    _, graphs = find_graphs(model.name, model.scale, "yuv420")
    spec, here = EngineSpec(graphs, *size, Colour("bt601", "limited")), Field()
    needs = count(spec)
    say(f"{graphs.title} at {size[0]}x{size[1]}: opening engines and peers")
    with ExitStack() as stack:
        open_engines(here, spec, stack)
        open_peers(here, model, spec, bench.peers)
        gauges = _gauges(here.contenders)
        works = [paced(contender.work, bench.seconds, contender.least) for contender in here.contenders]
        works += [paced(gauge.work, bench.seconds) for gauge in gauges]
        rounds = list(in_turn({str(i): work for i, work in enumerate(works)}, bench.rounds, say).values())
    peaks = peaks_of(gauges, rounds[len(here.contenders) :])
    return {
        "model": graphs.title,
        "size": f"{size[0]}x{size[1]}",
        "needs": asdict(needs),
        "peaks": peaks,
        "rows": _rows(here.contenders, rounds[: len(here.contenders)], needs, peaks),
        "missing": here.missing,
    }


def _gauges(contenders: Sequence[Contender]) -> list[Meter]:
    """Meters for the devices and precisions that our engines use."""
    used = {(c.about["device"], c.about["precision"]) for c in contenders if c.is_ours}
    found = list[Meter]()
    for device in get_args(Device):
        precisions = [precision for precision in get_args(Precision) if (device, precision) in used]
        found += meters(device, precisions, cores()) if precisions else []
    return found


def _rows(contenders: Sequence[Contender], rounds: Sequence[Sequence[float]], needs: Needs, peaks: Peaks) -> list[Row]:
    """The contenders' rows with their figures. Stock is the stock session on the same device."""
    pairs = list(zip(contenders, rounds, strict=True))
    stock = {c.about["device"]: values for c, values in pairs if c.about["name"] == STOCK}
    return [c.about | _figures(c, values, stock.get(c.about["device"]), needs, peaks) for c, values in pairs]


def _figures(contender: Contender, values: Sequence[float], stock: Sequence[float] | None, needs: Needs, peaks: Peaks) -> Row:
    about, ms = contender.about, spread(values)
    floor = needs.floor_ms(about["precision"], peaks[about["device"]]) if contender.is_ours else None
    return {
        "ms": ms,
        "times_stock": ratios(stock, values) if stock else None,
        "floor_ms": floor,
        "over_floor": digits(ms["median"] / floor) if floor else None,
        "rounds_ms": [digits(value) for value in values],
    }
