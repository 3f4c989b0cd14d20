"""VMAF, where an FFmpeg with libvmaf is installed: on the PATH, or as the package imageio-ffmpeg."""

import importlib.util
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

from engines.runner import Plane
from models.errors import FourfoldError

MODELS = ("vmaf_v0.6.1", "vmaf_v0.6.1neg")
"""Netflix's model for a 1080p screen, and its twin that does not reward sharpening (VMAF-NEG)."""

Frame = tuple[Plane, Plane, Plane]
"""uint8 planes y [H, W], u and v [H / 2, W / 2]."""


class VmafError(FourfoldError):
    """FFmpeg could not compute VMAF."""


def vmaf(folder: Path, ours: list[Frame], truth: list[Frame]) -> dict[str, float] | None:
    """Mean VMAF of `ours` against `truth`, 4:2:0 planes of one size, by the name of VMAF's model; None without libvmaf.

    Args:
        folder: for temporary files.

    Raises:
        VmafError: FFmpeg has libvmaf and could not run it.
    """
    ffmpeg = _ffmpeg_with_vmaf()
    if not ffmpeg:
        return None
    height, width = truth[0][0].shape
    paths = [_write_raw(folder / f"{name}.yuv", frames) for name, frames in (("ours", ours), ("truth", truth))]
    report = folder / "vmaf.json"
    models = "|".join(f"version={name}\\:name={name}" for name in MODELS)
    inputs = [
        part for path in paths for part in ("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-i", path)
    ]
    graph = f"libvmaf=model='{models}':log_fmt=json:log_path={report}"
    command = [ffmpeg, "-v", "error", "-nostdin", *inputs, "-lavfi", graph, "-f", "null", "-"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if result.returncode:
        raise VmafError(f"{ffmpeg} has libvmaf but could not run it: {result.stderr.strip()}")
    pooled = json.loads(report.read_text())["pooled_metrics"]
    return {name: round(float(pooled[name]["mean"]), 3) for name in MODELS}


@cache
def _ffmpeg_with_vmaf() -> str | None:
    candidates = [shutil.which("ffmpeg")]
    if importlib.util.find_spec("imageio_ffmpeg"):
        import imageio_ffmpeg

        candidates.append(imageio_ffmpeg.get_ffmpeg_exe())
    for candidate in filter(None, candidates):
        listing = subprocess.run([candidate, "-hide_banner", "-filters"], capture_output=True, text=True, check=False)  # noqa: S603
        if " libvmaf " in listing.stdout:
            return candidate
    return None


def _write_raw(path: Path, frames: list[Frame]) -> Path:
    with path.open("wb") as file:
        for frame in frames:
            for plane in frame:
                file.write(plane.tobytes())
    return path
