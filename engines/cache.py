"""Compiled engines on disk, filed under everything that they depend on.

An engine is loaded only if this program wrote it and nothing has changed since: compiled engines are executable code.
"""

import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.runner import Backend, EngineSpec

log = logging.getLogger(__name__)

FORMAT = 2
"""Of what this program compiles: raised when a backend comes to build something else from the same graph."""

IDENTICAL_DB = 999.0  # infinity, as JSON can say it


def cache_folder() -> Path:
    """FOURFOLD_CACHE, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fourfold"
    return Path(os.environ.get("FOURFOLD_CACHE") or default)


@dataclass(frozen=True)
class CompiledEngine:
    """What a backend's `load` takes, and where it is kept."""

    blob: bytes
    path: Path  # beside it lies what it was built from, as JSON; neither exists if the disk was full
    parity_db: float | None  # what admission measured (see `engines.admit`); None: it was not yet
    cached: bool  # it was there already

    def admitted(self, parity_db: float) -> None:
        """Notes that the engine passed. Where that cannot be noted, it is to show it again next time."""
        note = _note(self.path)
        if note is None:
            return
        try:
            replace_file(self.path.with_suffix(".json"), as_json(note | {"parity_db": min(parity_db, IDENTICAL_DB)}))
        except OSError as error:
            log.warning("that an engine was admitted could not be kept in %s: %s", self.path.parent, error.strerror)


def description(backend: Backend, spec: EngineSpec) -> dict[str, Any]:
    """All that a compiled engine depends on; equal descriptions mean interchangeable engines."""
    checkpoint = spec.graphs.checkpoint
    return {
        "format": FORMAT,
        "backend": backend.name,
        "version": backend.version(),
        "device": backend.device(),
        "network": spec.graphs.title,
        "onnx": _sha256(spec.onnx.read_bytes()),
        "checkpoint": _sha256(checkpoint.read_bytes()) if checkpoint else None,
        "scale": spec.scale,
        "form": spec.form,
        "width": spec.width,
        "height": spec.height,
        "colour": asdict(spec.colour) if spec.colour else None,
        "precision": spec.precision,
        "layout": asdict(spec.layout),
    }


def compiled(backend: Backend, spec: EngineSpec) -> CompiledEngine:
    """The engine for `spec`: from the cache, or built and put there. Of two processes that build it, the second waits.

    A damaged file is built anew; a full disk or one that cannot be written to costs only time.
    """
    built_from = description(backend, spec)
    path = _engine_path(built_from)
    stored = _read(path, built_from)
    if stored is not None:
        return stored
    with _only_one(path):
        stored = _read(path, built_from)
        if stored is not None:
            return stored
        blob = backend.build(spec)
        try:
            replace_file(path, blob)
            replace_file(path.with_suffix(".json"), as_json(built_from | {"sha256": _sha256(blob)}))
        except OSError as error:
            log.warning("the compiled engine could not be kept in %s: %s", path.parent, error.strerror)
    return CompiledEngine(blob, path, None, cached=False)


def is_cached(backend: Backend, spec: EngineSpec) -> bool:
    """Whether `compiled` would find the engine."""
    built_from = description(backend, spec)
    return _read(_engine_path(built_from), built_from) is not None


def _engine_path(built_from: dict[str, Any]) -> Path:
    return cache_folder() / "engines" / f"{_sha256(as_json(built_from))[:32]}.engine"


def _read(path: Path, built_from: dict[str, Any]) -> CompiledEngine | None:
    """The engine at `path` if it is what its description says, and that is what is wanted."""
    note = _note(path)
    if note is None or any(note.get(key) != value for key, value in built_from.items()):
        return None
    try:
        blob = path.read_bytes()
    except OSError:
        return None
    if _sha256(blob) != note.get("sha256"):
        log.warning("a compiled engine in the cache was damaged and is built anew")
        return None
    return CompiledEngine(blob, path, note.get("parity_db"), cached=True)


def _note(path: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Holds a lock for `path` among all processes; goes on without one where there can be none."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.with_suffix(".lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            log.debug("no lock for %s: %s", path, error)
        yield


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file that exists only once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def as_json(value: Any) -> bytes:
    """The same bytes for equal values."""
    return json.dumps(value, indent=2, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
