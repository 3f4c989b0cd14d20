"""All that was measured, collected into docs/performance.md.

`python -m server.bench.render` writes the page below its marker, and its plots, from all of bench/results/bench-*.json.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from models.errors import FourfoldError
from server.bench.contenders import WITHOUT_GRAPHS
from server.bench.plots import PLOTTED, draw
from server.bench.tables import Result, machine, table, text

RESULTS, PAGE = Path("bench/results"), Path("docs/performance.md")
PLAIN_NAME = re.compile(r"\w[\w.-]*")
MARKER = "<!-- everything below is written by `python -m server.bench.render` -->"


def save(result: Result, name: str) -> Path:
    """Writes a result to where `page` finds it: bench/results/bench-NAME.json.

    Raises:
        FourfoldError: the name would lead elsewhere.
    """
    plain = name.removeprefix("bench-").removesuffix(".json")
    if not PLAIN_NAME.fullmatch(plain):
        raise FourfoldError(f"--save {name!r} is no plain name; take letters, digits, dots, dashes and underscores")
    path = RESULTS / f"bench-{plain}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def load(folder: Path) -> dict[str, Result]:
    """Name -> result of all that were saved, the engines' before the pipelines'."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("bench-*.json"))}
    return dict(sorted(results.items(), key=lambda item: item[1]["kind"]))


def page(results: dict[str, Result]) -> str:
    """docs/performance.md below the marker."""
    parts = []
    for name, result in results.items():
        plot = f"![{name}]({name}.svg)\n\n" if result["kind"] in PLOTTED else ""
        parts.append(f"## {name.removeprefix('bench-')}: {machine(result)}\n\n{plot}{text(result)}")
    return "\n\n".join([*parts, _not_measured(list(results.values()))])


def _has_row(name: str) -> Callable[[Result], bool]:
    def has(result: Result) -> bool:
        rows = [row for case in result.get("cases", []) for row in case["rows"]]
        return _on_h200(result) and any((row["name"], row["device"]) == (name, "cuda") for row in rows)

    return has


def _on_h200(result: Result) -> bool:
    return "H200" in (result["machine"]["gpu"] or {}).get("name", "")


WANTED: tuple[tuple[str, Callable[[Result], bool]], ...] = (
    ("CPU with AMX", lambda result: "amx_tile" in result["machine"]["features"]),
    ("ARM CPU", lambda result: result["machine"]["architecture"] == "aarch64"),
    ("NVIDIA H200: TensorRT", _has_row("tensorrt")),
    ("NVIDIA H200: our PyTorch backend", _has_row("torch")),
    ("NVIDIA H200: our ONNX Runtime backend", _has_row("onnxruntime-cuda")),
    ("NVIDIA H200: stock ONNX Runtime CUDA session", _has_row("ONNX Runtime, stock")),
    ("NVIDIA H200: PyTorch eager", _has_row("PyTorch eager")),
    ("NVIDIA H200: torch.compile", _has_row("torch.compile")),
    ("NVIDIA H200: CUDA graphs on against off", _has_row("tensorrt" + WITHOUT_GRAPHS)),
    (
        "NVIDIA H200: files from end to end, one and many streams",
        lambda result: result["kind"] == "pipeline" and _on_h200(result),
    ),
)
"""What a reader will ask for, and how to tell that a result has it."""


def _not_measured(results: list[Result]) -> str:
    rows = [[what, "not measured"] for what, has in WANTED if not any(map(has, results))]
    return f"## Not measured\n\n{table(['', ''], rows)}"


def main() -> None:
    results = load(RESULTS)
    for old in PAGE.parent.glob("bench-*.svg"):
        old.unlink()
    for name, result in results.items():
        if result["kind"] in PLOTTED:
            draw(result, PAGE.parent / f"{name}.svg")
    written = PAGE.read_text().partition(MARKER)[0]
    PAGE.write_text(f"{written}{MARKER}\n\n{page(results)}\n")


if __name__ == "__main__":
    main()
