"""`fourfold bench …`: see `server.cli`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from server.terminal import EngineName, Json, ModelName, PrecisionName, Scale, print_json, say

bench = typer.Typer(
    no_args_is_help=True, help="Measure speed on this machine: engines beside peers, and files from end to end."
)

Save = Annotated[str | None, typer.Option(help="Keep the result as bench/results/bench-NAME.json.", metavar="NAME")]


@bench.command("engines")
def bench_engines(
    model: Annotated[list[str], typer.Option(help="A model's name; may be given again.")] = ["xlsr"],  # noqa: B006
    scale: Scale = 4,
    size: Annotated[list[str], typer.Option(help="Input size, WIDTHxHEIGHT; may be given again.")] = ["480x270"],  # noqa: B006
    peer: Annotated[list[str], typer.Option(help="Only this peer; may be given again. Default: all.")] = [],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured, in turn.")] = 10,
    seconds: Annotated[float, typer.Option(min=0.0, help="Of one thing in one round.")] = 0.5,
    save: Save = None,
    json: Json = False,
) -> None:
    """Time every engine that works here beside PyTorch, ONNX Runtime, OpenCV, swscale, and beside what the machine could do."""
    from server.bench.engines import EngineBench, parse_size
    from server.bench.engines import bench_engines as run

    try:
        sizes = [parse_size(text) for text in size]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from error
    _bench_result(run(EngineBench(model, scale, sizes, peer, rounds, seconds), say), save, json)


@bench.command("pipeline")
def bench_pipeline(
    streams: Annotated[list[int], typer.Option(min=1, max=64, help="Clips at once; may be given again.")] = [1, 2, 4, 8, 16],  # noqa: B006
    frames: Annotated[int, typer.Option(min=8, help="Frames of the clip that is drawn.")] = 96,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured, in turn.")] = 3,
    clip: Annotated[Path | None, typer.Option(help="A video file to take instead.")] = None,
    model: ModelName = "auto",
    scale: Scale = 4,
    engine: EngineName = "auto",
    precision: PrecisionName = "auto",
    preset: Annotated[str | None, typer.Option(help="The encoder's own speed preset.")] = None,
    save: Save = None,
    json: Json = False,
) -> None:
    """Time files from end to end, one and many at once, beside what decoding, inference and encoding cost alone."""
    from server.bench.pipeline import PipelineBench
    from server.bench.pipeline import bench_pipeline as run
    from server.media.encode import EncoderSettings
    from server.videos import VideoOptions

    options = VideoOptions(model, scale, engine, precision, encoder=EncoderSettings(preset=preset))
    _bench_result(run(PipelineBench(streams, frames, rounds, clip, options), say), save, json)


@bench.command("service")
def bench_service(
    model: ModelName = "auto",
    pictures: Annotated[int, typer.Option(min=1, help="One after the other, for latency.")] = 50,
    sessions: Annotated[int, typer.Option(min=1, help="Opened and closed, one after the other.")] = 50,
    idle: Annotated[int, typer.Option(min=0, max=60, help="Sessions that are open meanwhile and send nothing.")] = 0,
    streams: Annotated[int, typer.Option(min=1, max=64, help="At once.")] = 2,
    fps: Annotated[float, typer.Option(min=1, help="Frames a second of each.")] = 15,
    seconds: Annotated[float, typer.Option(min=1, help="Of each.")] = 20,
    soak_pictures: Annotated[int, typer.Option(min=0, help="Before memory is looked at again.")] = 200,
    soak_sessions: Annotated[int, typer.Option(min=0, help="Before memory is looked at again.")] = 50,
    save: Save = None,
    json: Json = False,
) -> None:
    """Start a service and time pictures, sessions and streams through HTTP and WebSocket; watch its memory."""
    from server.bench.service import ServiceBench
    from server.bench.service import bench_service as run

    bench = ServiceBench(model, pictures, sessions, idle, streams, fps, seconds, soak_pictures, soak_sessions)
    _bench_result(run(bench, say), save, json)


@bench.command("relay")
def bench_relay(
    model: Annotated[str, typer.Option("--model", help="A model's name, or auto.")] = "xlsr-live",
    streams: Annotated[int, typer.Option(min=1, max=16, help="At once.")] = 1,
    minutes: Annotated[float, typer.Option(min=0.05, help="Of a round.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="One after the other, each with relays of its own.")] = 1,
    save: Save = None,
    json: Json = False,
) -> None:
    """Relay live streams through an RTMP server and a service: added latency, lost pictures, sound, memory."""
    from server.bench.relay import RelayBench
    from server.bench.relay import bench_relay as run

    _bench_result(run(RelayBench(model, streams, minutes, rounds), say), save, json)


def _bench_result(result: dict[str, Any], name: str | None, json: bool) -> None:
    """Keeps and prints what was measured."""
    from server.bench.render import save
    from server.bench.tables import text

    if name:
        say(f"saved as {save(result, name)}")
    if json:
        print_json(result)
    else:
        print(text(result))
