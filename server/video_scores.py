"""Scoring a model on compressed video: what viewers of an upscaled live stream get, against the clip before it was made small.

The clip is made small by the evaluation's own resize, plane by plane, encoded with libx264, decoded, and upscaled by the engine
on the way that live frames take.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from engines.build import open_runner
from engines.choose import choose
from engines.runner import EngineSpec, Graphs, Plane, PlaneFrame
from models.errors import FourfoldError
from models.evaluation.metrics import psnr
from models.resize import downscale
from server.catalogue import cores, find_graphs
from server.media.decode import DecodedFrame, VideoSource
from server.media.encode import EncoderSettings, VideoSink
from server.vmaf import Frame, vmaf


class ClipError(FourfoldError):
    """A clip cannot be scored."""


@dataclass(frozen=True)
class VideoScore:
    """One model on one clip at one rate factor."""

    clip: str
    model: str
    crf: int
    frames: int
    psnr_y: float  # dB, mean over frames, on the luma plane as it is
    flicker: float  # luma levels: how far changes from frame to frame are off, mean over pixels
    kilobits_per_second: float  # of the small clip
    vmaf: dict[str, float] | None  # by the name of VMAF's model; None where FFmpeg has no libvmaf

    def __str__(self) -> str:
        figures = [f"PSNR-Y {self.psnr_y:.2f} dB", f"flicker {self.flicker:.2f}"]
        figures += [f"{name} {value:.1f}" for name, value in (self.vmaf or {}).items()] or ["no VMAF: FFmpeg lacks libvmaf"]
        return f"{self.clip} CRF {self.crf} ({self.kilobits_per_second:.0f} kbit/s), {self.model}: {', '.join(figures)}"


def score_video(
    clip: Path, models: list[str], scale: int, crfs: list[int], frames: int, engine: str = "auto", precision: str = "auto"
) -> Iterator[VideoScore]:
    """Scores `models` on the first `frames` frames of `clip` at each of `crfs`, one after the other.

    Raises:
        FourfoldError: the clip cannot be read or is too small, or there is no such model or engine.
    """
    graphs = [find_graphs(model, scale, "yuv420") for model in models]
    with VideoSource(clip) as source, tempfile.TemporaryDirectory(prefix="fourfold-scores-") as folder:
        truth = [_cropped(frame.planes, 2 * scale) for frame in islice(_frames(source), frames)]
        if not truth or min(truth[0][0].shape) < 16 * scale:
            raise ClipError(f"{clip} is too small to be made {scale} times smaller; it needs {16 * scale} pixels a side")
        for crf in crfs:
            small = Path(folder) / f"{crf}.mkv"
            _write_small(small, source, truth, scale, crf)
            rate = small.stat().st_size * 8 / 1000 * float(source.frame_rate or 30) / len(truth)
            for model, graph in graphs:
                ours = _upscaled(small, graph, engine, precision)
                if len(ours) != len(truth):
                    raise ClipError(f"{clip} at CRF {crf}: {len(ours)} frames came back of {len(truth)}; it cannot be compared")
                luma = [(mine[0], real[0]) for mine, real in zip(ours, truth, strict=True)]
                score = float(np.mean([psnr(mine.astype(np.float64), real.astype(np.float64)) for mine, real in luma]))
                judged = vmaf(Path(folder), ours, truth)
                yield VideoScore(clip.name, model, crf, len(ours), score, flicker(luma), round(rate, 1), judged)


def flicker(luma: Iterable[tuple[Plane, Plane]]) -> float:
    """Mean |change of ours - change of the truth| from frame to frame, in levels; 0 for a single frame."""
    total, before = [], None
    for ours, truth in luma:
        error = ours.astype(np.int16) - truth
        if before is not None:
            total.append(float(np.abs(error - before).mean()))
        before = error
    return float(np.mean(total)) if total else 0.0


def _frames(source: VideoSource) -> Iterator[DecodedFrame]:
    return (item for item in source.read() if isinstance(item, DecodedFrame))


def _cropped(planes: tuple[Plane, ...], multiple: int) -> Frame:
    """Copies of the planes, top left, with luma sides that are multiples of `multiple` (even)."""
    height, width = (side - side % multiple for side in planes[0].shape)
    sizes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    y, u, v = (plane[:h, :w].copy() for plane, (h, w) in zip(planes, sizes, strict=True))
    return y, u, v


def _write_small(path: Path, source: VideoSource, truth: list[Frame], scale: int, crf: int) -> None:
    height, width = (side // scale for side in truth[0][0].shape)
    settings = EncoderSettings(encoder="libx264", crf=crf, preset="veryfast")
    step = int(1 / source.time_base / (source.frame_rate or 30)) or 1
    with VideoSink(path, source, width, height, settings) as sink:
        for number, frame in enumerate(truth):
            planes = [downscale(plane[:, :, None], scale).ravel() for plane in frame]
            sink.encode(np.concatenate(planes).reshape(height * 3 // 2, width), number * step, step)


def _upscaled(small: Path, graphs: Graphs, engine: str, precision: str) -> list[Frame]:
    with VideoSource(small) as source:
        spec = EngineSpec(graphs, source.width, source.height, source.colour)
        choice = choose(spec, "latency", cores(), engine, precision)
        runner = open_runner(choice.backend, choice.spec)
        try:
            results = []
            for frame in _frames(source):
                y, u, v = (np.empty(shape, np.uint8) for shape in spec.output_planes(source.height, source.width))
                runner.infer([PlaneFrame(tuple(np.ascontiguousarray(plane) for plane in frame.planes), (y, u, v))])
                results.append((y, u, v))
            return results
        finally:
            runner.close()
