"""The plots of docs/performance.md, as SVG: the same bytes for the same result and the same matplotlib."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Result = dict[str, Any]

PLOTTED = ("engines", "pipeline")
"""Kinds of results that a plot says something about."""

OURS, THEIRS, LIMIT = "#2a6f97", "#909090", "#c1440e"
STYLE: dict[Any, Any] = {"svg.hashsalt": "fourfold", "svg.fonttype": "none", "font.size": 8, "font.family": "sans-serif"}


def draw(result: Result, path: Path) -> None:
    """Writes the plot of one result of a kind in PLOTTED."""
    {"engines": _engines, "pipeline": _pipeline}[result["kind"]](result, path)


def _engines(result: Result, path: Path) -> None:
    """Points with their ranges: a call's time for each case, peers in grey, the floor as a line across."""
    cases = result["cases"]
    rows = max(len(_calls(case)) for case in cases)
    with _axes(path, len(cases), 0.22 * rows * len(cases) + 0.7 * len(cases)) as axes:
        for case, axis in zip(cases, axes, strict=True):
            _points(axis, _calls(case))
            axis.set_title(f"{case['model']}, {case['size']}: ms of one call; red: its floor", loc="left")


def _calls(case: Result) -> list[Result]:
    return [row for row in case["rows"] if row["goal"] == "latency"]


def _points(axis: "Axes", rows: list[Result]) -> None:
    for y, row in enumerate(reversed(rows)):
        ms, colour = row["ms"], OURS if row["kind"] == "engine" else THEIRS
        spread = [[ms["median"] - ms["min"]], [ms["max"] - ms["median"]]]
        axis.errorbar(ms["median"], y, xerr=spread, color=colour, marker="o", capsize=2)
        if row["floor_ms"]:
            axis.plot([row["floor_ms"]] * 2, [y - 0.4, y + 0.4], color=LIMIT)
    names = [f"{row['name']} {row['precision']}, {row['device'].upper()}" for row in reversed(rows)]
    axis.set_yticks(range(len(rows)), names)
    axis.set_xscale("log")
    axis.grid(axis="x", color="#e5e5e5")
    axis.set_axisbelow(True)


def _pipeline(result: Result, path: Path) -> None:
    """Frames a second of all streams together against their number, and what the cores could do."""
    runs, limit = result["runs"], result["limit_fps"]
    with _axes(path, 1, 2.4) as (axis,):
        streams = [run["streams"] for run in runs]
        fps = [run["fps"]["median"] for run in runs]
        below = [run["fps"]["median"] - run["fps"]["min"] for run in runs]
        above = [run["fps"]["max"] - run["fps"]["median"] for run in runs]
        axis.errorbar(streams, fps, yerr=[below, above], color=OURS, marker="o", capsize=2, label="all streams together")
        axis.axhline(limit["median"], color=LIMIT, label="cores / sum of the stages")
        axis.set(ylim=(0, 1.15 * max(limit["max"], *fps)), xlabel="streams at once", ylabel="frames/s", xticks=streams)
        axis.legend(loc="lower right", frameon=False)


@contextmanager
def _axes(path: Path, rows: int, height: float) -> "Iterator[list[Axes]]":
    """Empty axes one below the other, `height` inches in all; what was drawn on them is written to `path`."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, 1, squeeze=False)[:, 0].tolist()
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        yield axes
        figure.savefig(path, format="svg", metadata={"Date": None})
