"""What the report of a fault needs: versions, the machine, engines and encoders and why some do not work, settings, folders.

Nothing in it is secret: of settings that name secrets, only that they are set. It never fails for what it looks at.
"""

import platform
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engines.cache import cache_folder
from engines.logs import redacted
from models.errors import FourfoldError
from server.bench.machine import machine, versions
from server.errors import SettingsError
from server.listing import backend_rows
from server.media.encoders import ENCODERS, EncoderSettings, choose
from server.settings import PREFIX, Settings, read_settings


def report() -> dict[str, Any]:
    """All of it, as JSON can say it."""
    settings, wrong = _settings()
    return {
        "fourfold": version("fourfold"),
        "system": platform.platform(),
        "versions": versions(),
        "machine": machine(),
        "engines": backend_rows(),
        "encoders": [_encoder(name) for name in ENCODERS],
        "settings": _changed(settings),
        "settings_error": wrong,
        "cache": _folder(cache_folder()),
        "data": _folder(settings.data_folder),
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The same, for people."""
    machine = report["machine"]
    gpu = ", ".join(machine["gpu"].values()) if machine["gpu"] else "none that NVIDIA's driver shows"
    changed = [f"{name}={value}" for name, value in report["settings"].items()]
    packages = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return [
        f"fourfold   {report['fourfold']} on {report['system']}",
        f"versions   {packages}",
        f"cpu        {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] >> 20} MiB of memory",
        f"features   {' '.join(machine['features']) or 'none of those that matter'}",
        f"gpu        {gpu}",
        *(f"engine     {row['engine']}: {row['reason'] or row['version']}" for row in report["engines"]),
        *(f"encoder    {row['encoder']}: {row['reason'] or 'works'}" for row in report["encoders"]),
        f"settings   {', '.join(changed) or 'all as they are by default'}",
        *([f"settings   WRONG: {report['settings_error']}"] if report["settings_error"] else []),
        *(f"{name:10} {_told(report[name])}" for name in ("cache", "data")),
    ]


def _settings() -> tuple[Settings, str | None]:
    """The settings, or the defaults and what is wrong."""
    try:
        return read_settings(), None
    except SettingsError as error:
        return Settings.model_construct(), str(error)


def _changed(settings: Settings) -> dict[str, Any]:
    """Those that are not as by default, by the names of their variables."""
    defaults = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    changed = {name: getattr(settings, name) for name in defaults if getattr(settings, name) != defaults[name]}
    return {f"{PREFIX}{name.upper()}": "(set)" if _secret(name) else redacted(str(value)) for name, value in changed.items()}


def _secret(name: str) -> bool:
    extra = Settings.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("secret"))


def _encoder(name: str) -> dict[str, Any]:
    try:
        choose(EncoderSettings(name))
    except FourfoldError as error:
        return {"encoder": name, "works": False, "reason": str(error)}
    return {"encoder": name, "works": True, "reason": None}


def _folder(path: Path) -> dict[str, Any]:
    """What a folder holds, and the room on its disk, in bytes."""
    files = list(_sizes(path)) if path.is_dir() else []
    there = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    return {"path": str(path), "exists": path.is_dir(), "files": len(files), "bytes": sum(files), "free_bytes": free}


def _sizes(folder: Path) -> Iterator[int]:
    """Of the files below a folder, whatever is removed meanwhile."""
    for file in folder.rglob("*"):
        with suppress(OSError):
            if file.is_file():
                yield file.stat().st_size


def _told(folder: dict[str, Any]) -> str:
    held = f"{folder['files']} files, {folder['bytes'] >> 20} MiB" if folder["exists"] else "not there yet"
    return f"{folder['path']}: {held}; {folder['free_bytes'] >> 20} MiB free"
