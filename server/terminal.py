"""What the commands share: options that several take, and how they speak."""

import json as jsonlib
import sys
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ModelName = Annotated[str, typer.Option("--model", help="A model's name, a .safetensors checkpoint, or auto.")]
Scale = Annotated[int, typer.Option(min=2, max=4, help="Output pixels for one input pixel, in each direction.")]
EngineName = Annotated[str, typer.Option("--engine", help="auto, tensorrt, torch, onnxruntime-cuda, openvino or onnxruntime.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16, fp16 or int8.")]


def say(line: str) -> None:
    """One line for people, on stderr: stdout is for results."""
    print(line, file=sys.stderr)


def print_json(value: dict[str, Any]) -> None:
    """One object on stdout."""
    print(jsonlib.dumps(value))


def table(header: list[str], rows: list[list[Any]]) -> None:
    """A table on stdout, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


def relay_line(figures: dict[str, Any]) -> str:
    """How a relay does, in one line."""
    latency = ", ".join(f"{name} {value:.0f}" for name, value in figures["latency_ms"].items() if value is not None)
    drops = ", ".join(f"{reason} {count}" for reason, count in figures["drops"].items()) or "none"
    return (
        f"{figures['state']}, {figures['model']}: {figures['fps_in']:.1f} frames/s in, {figures['fps_out']:.1f} out; "
        f"latency ms: {latency or 'none yet'}; drops: {drops}"
    )
