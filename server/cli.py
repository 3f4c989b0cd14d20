"""`fourfold …`: the command line. Parses, calls, prints; everything else lives elsewhere and is imported when it is needed."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.errors import FourfoldError
from server.cli_bench import bench
from server.cli_keys import keys
from server.terminal import EngineName, Json, ModelName, PrecisionName, Scale, print_json, relay_line, say, table

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer(
    name="fourfold",
    help="Real-time video upscaling: low-resolution frames in, four times larger ones out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.add_typer(keys, name="keys")


@app.command()
def video(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A video file.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="What to write: .mp4, .mkv, .mov or .flv.")],
    model: ModelName = "auto",
    scale: Scale = 4,
    engine: EngineName = "auto",
    precision: PrecisionName = "auto",
    encoder: Annotated[
        str, typer.Option(help="auto, libx264, libx265, libsvtav1, h264_nvenc, hevc_nvenc or av1_nvenc.")
    ] = "auto",
    crf: Annotated[int | None, typer.Option(min=0, max=63, help="Quality; lower is better and larger.")] = None,
    preset: Annotated[str | None, typer.Option(help="The encoder's own speed preset.")] = None,
    height: Annotated[int | None, typer.Option(min=2, help="Lines of the output; scaled down after the network.")] = None,
    engine_process: Annotated[bool, typer.Option(help="Run the engine in a process of its own.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, no notes.")] = False,
    json: Json = False,
) -> None:
    """Upscale a video file; audio, subtitles, chapters, metadata, rotation and time stamps survive."""
    from server.media.encode import EncoderSettings
    from server.videos import VideoOptions, upscale_video

    settings = EncoderSettings(encoder, crf, preset)
    options = VideoOptions(model, scale, engine, precision, engine_process, height, settings)
    with _Progress(quiet) as progress:
        figures = upscale_video(source, target, options, progress.say, progress.on_frame)
    if json:
        print_json(figures)
    elif not quiet:
        say(f"{target}: {figures['frames_out']} frames in {figures['seconds']} s ({figures['fps']} frames/s)")


@app.command()
def image(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="PNG, JPEG or WebP files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A file for one picture, a folder for several.")],
    model: ModelName = "auto",
    scale: Scale = 4,
    engine: EngineName = "auto",
    precision: PrecisionName = "auto",
    json: Json = False,
) -> None:
    """Upscale pictures; alpha is kept."""
    from server.images import ImageUpscaler, plan_targets, upscale_images

    pairs = plan_targets(sources, output)
    with ImageUpscaler(model, scale, engine, precision, say) as upscaler:
        results = upscale_images(upscaler, pairs, say)
    if json:
        print_json({"model": upscaler.model, "engine": upscaler.choice.backend, "images": results})
    else:
        for result in results:
            say(f"{result['target']}: {result['output']['width']}x{result['output']['height']}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put clip, result and picture.")] = Path("demo"),
    json: Json = False,
) -> None:
    """Draw a clip, upscale it, and print where the result, a side-by-side picture and the figures are."""
    from server.demo import run_demo

    with _Progress(quiet=False) as progress:
        figures = run_demo(folder, progress.say, progress.on_frame)
    if json:
        print_json(figures)
        return
    for name in ("clip", "result", "side_by_side"):
        print(f"{name.replace('_', ' '):13} {figures[name]}")
    print(f"{'frames':13} {figures['frames_out']} at {figures['fps']} frames/s, {figures['model']} on {figures['engine']}")
    stages = ", ".join(f"{stage} {times['p50']}" for stage, times in figures["stages_ms"].items())
    print(f"{'ms a frame':13} {stages} (medians)")


@app.command()
def demo_live(
    folder: Annotated[Path, typer.Argument(help="Where to put the clip and what the servers write.")] = Path("demo"),
    model: Annotated[str, typer.Option("--model", help="A model's name, or auto.")] = "xlsr-live",
    seconds: Annotated[float | None, typer.Option(min=1, help="End after so long; default: at Ctrl-C.")] = None,
) -> None:
    """Stream a clip through an RTMP server and the service; print where to watch it, latency and drops."""
    from server.demo_live import run_demo_live

    try:
        run_demo_live(folder, model, seconds, say)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def models(json: Json = False) -> None:
    """List the models: scale, parameters, PSNR-Y in dB, size."""
    from server.listing import model_list

    listed = model_list()
    if json:
        print_json(listed)
        return
    table(
        ["model", "scale", "parameters", "Set5", "Set14", "BSD100", "kB"],
        [
            [r["name"], f"x{r['scale']}", f"{r['parameters']:,}", *r["psnr_y"].values(), r["bytes"] // 1000]
            for r in listed["models"]
        ],
    )


@app.command()
def engines(
    model: ModelName = "auto",
    scale: Scale = 4,
    json: Json = False,
) -> None:
    """Try the backends: which work here, with which precisions, how fast, and why the others don't."""
    from server.listing import engine_list

    listed = engine_list(model, scale, say)
    if json:
        print_json(listed)
        return
    table(
        ["engine", "works", "precisions"],
        [[r["engine"], r["reason"] or r["version"], ", ".join(r["precisions"])] for r in listed["engines"]],
    )
    table(
        [listed["model"], "precision", "lanes x threads", "ms a frame, 480x270", "verdict"],
        [
            [
                t["backend"],
                t["precision"],
                "{lanes} x {threads}".format(**t["layout"]),
                _ms(t["frame_ms"]),
                t["refusal"] or "admitted",
            ]
            for t in listed["trials"]
        ],
    )
    print(f"auto: {listed['auto']}")


@app.command()
def doctor(json: Json = False) -> None:
    """Print what the report of a fault needs: versions, the machine, engines, encoders, settings. Nothing in it is secret."""
    from server.doctor import lines, report

    told = report()
    if json:
        print_json(told)
    else:
        print("\n".join(lines(told)))


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="A model's name, a .safetensors checkpoint, or auto.")],
    size: Annotated[str, typer.Option(help="Input size, WIDTHxHEIGHT.")],
    scale: Scale = 4,
    engine: EngineName = "auto",
    precision: PrecisionName = "auto",
    matrix: Annotated[str, typer.Option(help="Colour matrix of the frames: bt601, bt709 or bt2020.")] = "bt709",
    full_range: Annotated[bool, typer.Option(help="Frames of full instead of limited range.")] = False,
    json: Json = False,
) -> None:
    """Compile an engine for video frames of one size into the cache."""
    from engines.build import build as build_engine
    from engines.choose import choose
    from engines.runner import EngineSpec
    from models.colour import LUMA_WEIGHTS, Colour
    from server.catalogue import cores, find_graphs

    width, _, height = size.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise typer.BadParameter(f"{size} is not WIDTHxHEIGHT", param_hint="--size")
    known = next((name for name in LUMA_WEIGHTS if name == matrix), None)
    if known is None:
        raise typer.BadParameter(f"{matrix} is not one of {', '.join(LUMA_WEIGHTS)}", param_hint="--matrix")
    name, graphs = find_graphs(model, scale, "yuv420")
    spec = EngineSpec(graphs, int(width), int(height), Colour(known, "full" if full_range else "limited"))
    choice = choose(spec, "throughput", cores(), engine, precision, say)
    built = build_engine(choice.backend, choice.spec)
    result = {"model": name, "size": size, "engine": choice.backend, "precision": choice.spec.precision, "built": built}
    if json:
        print_json(result)
    else:
        say(f"{name} x{scale} {size} on {choice.reason}: {'built' if built else 'was in the cache'}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="A model's name, a .safetensors checkpoint, or auto.")],
    data: Annotated[Path, typer.Option(help="Folder of high-resolution pictures.")],
    scale: Scale = 4,
    lr: Annotated[Path | None, typer.Option(help="Folder of low-resolution ones; made by our own resize if not given.")] = None,
    engine: EngineName = "auto",
    precision: PrecisionName = "fp32",
    json: Json = False,
) -> None:
    """Score a model on pictures: PSNR-Y and SSIM-Y by the literature's protocol, and how different they look."""
    from models.evaluation.protocol import evaluate as evaluate_folder
    from server.distance import find_distance
    from server.images import ImageUpscaler

    distance = find_distance(_data_folder(), say)
    with ImageUpscaler(model, scale, engine, precision, say) as upscaler:
        result = evaluate_folder(upscaler.upscale, scale, data, lr, distance)
    if json:
        per_image = [vars(score) for score in result.scores]
        averages = {name: getattr(result, name) for name in ("psnr_y", "ssim_y", "squeeze_distance")} | {"lpips": None}
        about = {"model": upscaler.model, "scale": scale, "data": str(data), "images": len(per_image)}
        print_json({**about, **averages, "per_image": per_image})
    else:
        line = f"{upscaler.model} x{scale} on {data}: PSNR-Y {result.psnr_y:.3f} dB, SSIM-Y {result.ssim_y:.4f}"
        print(line if result.squeeze_distance is None else f"{line}, squeeze_distance {result.squeeze_distance:.4f}")


@app.command()
def evaluate_video(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Video files in the quality that is to be reached.")],
    model: Annotated[list[str], typer.Option(help="A model's name or a .safetensors checkpoint; may be given again.")],
    crf: Annotated[list[int], typer.Option(min=0, max=51, help="libx264's rate factor; may be given again.")] = [23, 28, 33],  # noqa: B006
    scale: Scale = 4,
    frames: Annotated[int, typer.Option(min=1, help="The first so many of each clip.")] = 60,
    engine: EngineName = "auto",
    precision: PrecisionName = "auto",
    json: Json = False,
) -> None:
    """Score models on clips that were made small and compressed: PSNR-Y, VMAF where FFmpeg has it, flicker."""
    from server.video_scores import score_video

    scores = []
    for clip in clips:
        for score in score_video(clip, model, scale, crf, frames, engine, precision):
            scores.append(vars(score))
            if not json:
                print(score)
    if json:
        print_json({"scale": scale, "scores": scores})


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A training configuration, such as models/training/configs/xlsr-x4.toml.")],
    data: Annotated[Path | None, typer.Option(help="Data directory; default FOURFOLD_DATA, else ../shared/data.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME. An unfinished run goes on.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train a network; interrupt it at any time, the same command goes on."""
    try:
        from models.training.command import train as train_network
    except ImportError as error:
        raise FourfoldError(f"training needs PyTorch ({error}); pip install 'fourfold[train]'") from error
    best = train_network(config, data or _data_folder(), run or Path("runs") / config.stem, threads)
    say(f"best validation score: {best:.3f}")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1, this machine only.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="TCP port; default 8000, 0 takes a free one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of requests that name none.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="auto, tensorrt, torch, onnxruntime-cuda, openvino or onnxruntime.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = None,
) -> None:
    """Start the HTTP and WebSocket service; FOURFOLD_… variables and FOURFOLD_CONFIG hold its other settings."""
    from server.listener import serve as run
    from server.settings import load_settings

    number = run(load_settings(host=host, port=port, model=model, engine=engine, precision=precision))
    if number == signal.SIGINT:
        raise typer.Exit(130)


@app.command()
def relay(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="rtmp: or rtmps: URL; or a file, with --realtime.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="rtmp: or rtmps: URL to publish to.")],
    model: ModelName = "auto",
    scale: Scale = 4,
    engine: EngineName = "auto",
    precision: PrecisionName = "auto",
    encoder: Annotated[str, typer.Option(help="auto, libx264 or h264_nvenc.")] = "auto",
    bitrate: Annotated[int | None, typer.Option(min=50_000, help="bit/s, constant; by default what the size needs.")] = None,
    keyframe_seconds: Annotated[float, typer.Option(min=0.1, max=20, help="Seconds from one keyframe to the next.")] = 2.0,
    hold_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds to show the last frame for while the source is away.")
    ] = 30.0,
    realtime: Annotated[bool, typer.Option("--realtime", help="SOURCE is a file; read it at the speed it plays at.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes, no figures meanwhile.")] = False,
    json: Json = False,
) -> None:
    """Relay a live stream, upscaled, until its source ends or Ctrl-C."""
    from server.local_relay import LocalRelay, run_relay

    options = (source, target, model, scale, engine, precision, encoder, bitrate, keyframe_seconds, hold_seconds, realtime)
    tell = (lambda line: None) if quiet else say
    figures, stopped = run_relay(LocalRelay(*options), tell, lambda figures: tell(relay_line(figures)))
    if json:
        print_json(figures)
    if stopped:
        raise typer.Exit(130)


class _Progress:
    """A progress bar on stderr where that is a terminal, and a place to say things meanwhile."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> "_Progress":
        if not self._quiet and sys.stderr.isatty():
            from rich import progress as bars
            from rich.console import Console

            columns = (bars.BarColumn(), bars.MofNCompleteColumn(), bars.TextColumn("{task.fields[fps]:.1f} frames/s"))
            self._bar = bars.Progress(*columns, bars.TimeRemainingColumn(), console=Console(stderr=True))
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        elif not self._quiet:
            say(line)

    def on_frame(self, done: int, total: int | None) -> None:
        if not self._bar:
            return
        if self._task is None:
            self._task = self._bar.add_task("", total=total, fps=0.0)
        elapsed = self._bar.tasks[0].elapsed or 1e-9
        self._bar.update(self._task, completed=done, fps=done / elapsed)


def _data_folder() -> Path:
    return Path(os.environ.get("FOURFOLD_DATA", "../shared/data"))


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def main() -> None:
    """The console script: turns errors meant for the user into one line and exit code 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through every `finally`: no partial output stays
    try:
        app()
    except FourfoldError as error:
        say(f"fourfold: {' '.join(str(error).split())}")
        sys.exit(1)


if __name__ == "__main__":
    main()
