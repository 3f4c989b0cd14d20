"""Compiled engines on disk, filed under everything that they depend on.

An engine is loaded only if this program wrote it and nothing has changed since: compiled engines are executable code.
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines.runner import Backend, EngineSpec

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """FOURFOLD_CACHE, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fourfold"
    return Path(os.environ.get("FOURFOLD_CACHE") or default)


def description(backend: Backend, spec: EngineSpec) -> dict[str, Any]:
    """All that a compiled engine depends on; equal descriptions mean interchangeable engines."""
    return asdict(spec) | {
        "onnx": hashlib.sha256(spec.onnx.read_bytes()).hexdigest(),
        "backend": backend.name,
        "version": backend.version(),
        "device": backend.device(),
    }


def compiled(backend: Backend, spec: EngineSpec) -> tuple[bytes, bool]:
    """The engine for `spec`, and whether it came from the cache. A damaged file is built anew; a full disk costs only time."""
    built_from = description(backend, spec)
    key = hashlib.sha256(json.dumps(built_from, sort_keys=True).encode()).hexdigest()[:32]
    blob_path = cache_folder() / "engines" / f"{key}.engine"
    stored = _read(blob_path)
    if stored is not None:
        return stored, True
    blob = backend.build(spec)
    try:
        _write(blob_path, blob, built_from)
    except OSError as error:
        log.warning("the compiled engine could not be kept in %s: %s", blob_path.parent, error.strerror)
    return blob, False


def _read(path: Path) -> bytes | None:
    """The engine at `path` if it is what its description says, else None."""
    try:
        blob, note = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    if hashlib.sha256(blob).hexdigest() != note.get("sha256"):
        log.warning("a compiled engine in the cache was damaged and is built anew")
        return None
    return blob


def _write(path: Path, blob: bytes, built_from: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    note = built_from | {"sha256": hashlib.sha256(blob).hexdigest()}
    for target, content in ((path, blob), (path.with_suffix(".json"), json.dumps(note, indent=2).encode())):
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(content)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
