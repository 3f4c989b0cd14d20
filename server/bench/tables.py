"""One result as Markdown: what `fourfold bench` prints, and a section of docs/performance.md."""

from collections.abc import Iterable
from typing import Any

Result = dict[str, Any]

GOALS = {"latency": "one call", "throughput": "all lanes"}


def text(result: Result) -> str:
    """One result."""
    body = {"engines": _engines, "pipeline": _pipeline, "service": _service, "relay": _relay}[result["kind"]](result)
    libraries = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    taken = f"`{result['command']}`, {result['date'][:10]}, commit {result['commit']}, {result['settings']['rounds']} rounds."
    return f"{taken} {libraries}.\n\n{body}"


def machine(result: Result) -> str:
    """What it was measured on."""
    about = result["machine"]
    gpu = f" and a {about['gpu']['name']} (driver {about['gpu']['driver_version']})" if about["gpu"] else ""
    cpu = f"{about['cores']} cores of {about['cpu']} ({', '.join(about['features'])})"
    return f"{cpu}, {about['memory_bytes'] / 2**30:.0f} GiB{gpu}"


def _engines(result: Result) -> str:
    return "\n\n".join(_case(case) for case in result["cases"])


def _case(case: Result) -> str:
    needs = case["needs"]
    traffic = f"{needs['frame_bytes'] / 1e6:.3g} MB in and out, {needs['weights']:,} weights"
    lines = [
        f"### {case['model']}, {case['size']}",
        "",
        f"A frame: {needs['multiply_adds'] / 1e9:.3g} G multiply-adds, {traffic}.",
    ]
    lines += [_peaks(device, peaks) for device, peaks in case["peaks"].items()]
    header = ["", "", "form", "layout", "ms a frame", "min to max", "x stock", "min to max", "floor ms", "ms / floor"]
    return "\n".join([*lines, "", table(header, map(_engine_row, case["rows"])), "", _missing(case["missing"])])


def _peaks(device: str, peaks: dict[str, float]) -> str:
    products = [f"{what.upper()} {peak / 1e9:,.0f}" for what, peak in peaks.items() if what != "copy"]
    return (
        f"Peaks of the {device.upper()} in this run: {', '.join(products)} G operations/s, copy {peaks['copy'] / 1e9:.3g} GB/s."
    )


def _engine_row(row: Result) -> list[str]:
    engine = row["kind"] == "engine"
    name = f"**{row['name']} {row['precision']}**" if engine else f"{row['name']} {row['precision']}, {row['device'].upper()}"
    stock = row["times_stock"]
    ratio = [f"{stock['median']:.3g}", _range(stock)] if stock else ["–", "–"]
    floor = [f"{row['floor_ms']:.3g}", f"{row['over_floor']:.3g}"] if row["floor_ms"] else ["–", "–"]
    layout = _layout(row["layout"]) if engine else "its own"
    return [name, GOALS[row["goal"]], row["form"], layout, f"{row['ms']['median']:.3g}", _range(row["ms"]), *ratio, *floor]


def _layout(layout: dict[str, int]) -> str:
    return f"{layout['lanes']} x {layout['threads']}" + (f", batch {layout['batch']}" if layout["batch"] > 1 else "")


def _missing(missing: list[Result]) -> str:
    """Those that did not run, one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for row in missing:
        reasons.setdefault(row["why"], []).append(f"{row['name']} {row['precision']}")
    return "\n".join(["Not in this run:", "", *(f"- {', '.join(names)}: {why}" for why, names in reasons.items())])


def _pipeline(result: Result) -> str:
    engine, stages = result["engine"], result["stages"]
    names = {"decode_core_ms": "decode", "infer_core_ms": "infer", "encode_core_ms": "encode", "core_ms": "together"}
    rows = [[title, f"{stages[name]['median']:.3g}", _range(stages[name])] for name, title in names.items()]
    lines = [
        f"{result['input']} to {result['output']}, {result['settings']['frames'] or 'all'} frames a stream.",
        f"{engine['model']} on {engine['reason']}; layout {_layout(engine['layout'])}.",
        "",
        table(["core ms a frame, alone", "median", "min to max"], rows),
        "",
        f"So this machine could do {result['limit_fps']['median']:.3g} frames/s ({_range(result['limit_fps'])}).",
        "",
        table(RUN_COLUMNS, map(_run_row, result["runs"])),
    ]
    return "\n".join(lines)


RUN_COLUMNS = [
    *("streams", "frames/s", "min to max", "a stream", "slowest", "efficiency", "min to max"),
    *("overhead, core ms", "idle or taken, core ms", "p50 / p95 / p99 ms", "peak RSS MiB"),
]


def _run_row(run: Result) -> list[str]:
    waits = " / ".join(f"{run[name]['median']:.0f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
    efficiency = run["efficiency"]
    return [
        str(run["streams"]),
        f"{run['fps']['median']:.3g}",
        _range(run["fps"]),
        f"{run['fps_per_stream']['median']:.3g}",
        f"{run['slowest_fps']['median']:.3g}",
        f"{efficiency['median']:.0%}",
        f"{efficiency['min']:.0%} to {efficiency['max']:.0%}",
        f"{run['left_core_ms']['overhead']:.3g}",
        f"{run['left_core_ms']['idle']:.3g}",
        waits,
        f"{run['peak_rss_bytes'] / 2**20:.0f}",
    ]


def _service(result: Result) -> str:
    from server.bench.service import summary

    return table(["", ""], map(list, summary(result)))


def _relay(result: Result) -> str:
    from server.bench.relay_figures import COLUMNS, notes, summary

    minutes = result["settings"]["minutes"]
    told = f"{result['settings']['input']}, for {minutes:g} min; each picture carries its time, and is read back by a player."
    return "\n\n".join([told, table(COLUMNS, summary(result)), *notes(result)])


def _range(figure: dict[str, float]) -> str:
    return f"{figure['min']:.3g} to {figure['max']:.3g}"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])
