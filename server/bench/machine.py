"""What a result was measured on, with and from: without it no figure means anything."""

import platform
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from server.catalogue import cores

PACKAGES = ("numpy", "openvino", "onnxruntime", "onnxruntime-gpu", "torch", "triton", "tensorrt", "opencv-python-headless")
FEATURES = (  # of a CPU, that decide how fast it multiplies, as Linux spells them
    *("amx_tile", "amx_bf16", "amx_int8", "avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni"),
    *("asimddp", "asimdhp", "bf16", "i8mm", "sve"),
)


def describe() -> dict[str, Any]:
    """Machine, versions, commit, date (UTC) and command line, with files by their names alone."""
    return {
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["fourfold", *(Path(word).name for word in sys.argv[1:])]),
    }


def machine() -> dict[str, Any]:
    """CPU, cores that we may use, what they can do, memory in bytes, and the GPU if there is one."""
    about = _colons(Path("/proc/cpuinfo"))
    has = set(about.get("flags", about.get("Features", "")).split())
    return {
        "cpu": about.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": cores(),
        "features": [name for name in FEATURES if name in has],
        "memory_bytes": int(_colons(Path("/proc/meminfo"))["MemTotal"].split()[0]) * 1024,
        "gpu": gpu(),
    }


def gpu() -> dict[str, str] | None:
    """Name, driver and memory of the first NVIDIA GPU."""
    fields = ("name", "driver_version", "memory.total")
    listing = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    return dict(zip(fields, listing.splitlines()[0].split(", "), strict=True)) if listing else None


def versions() -> dict[str, str]:
    """Of Python, of FFmpeg, and of the packages that do the work here; those that are not installed are left out."""
    from server.media.scale import ffmpeg_version

    found = {"python": platform.python_version(), "av": version("av"), "ffmpeg": ffmpeg_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Of the working copy, "-dirty" behind it where files differ from it; None outside of one."""
    folder = str(Path(__file__).parent)
    head = _output("git", "-C", folder, "rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    return f"{head}-dirty" if _output("git", "-C", folder, "status", "--porcelain", "--untracked-files=no") else head


def _output(program: str, *arguments: str) -> str:
    """What a program prints; nothing where it is missing or fails."""
    path = shutil.which(program)
    if path is None:
        return ""
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    return done.stdout.strip() if done.returncode == 0 else ""


def _colons(path: Path) -> dict[str, str]:
    """The first of each `name: value` of a file in /proc."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found
