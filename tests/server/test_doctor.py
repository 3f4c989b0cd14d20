"""`fourfold doctor`: says what a report of a fault needs, also where something is wrong, and no secret."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def doctor(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "server.cli", "doctor", *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def report(**environment: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(doctor("--json", **environment))
    return told


def test_it_tells_versions_machine_engines_and_encoders() -> None:
    told = report()
    assert told["fourfold"] == version("fourfold")
    assert told["machine"]["cores"] > 0 and told["machine"]["cpu"]
    assert {"python", "ffmpeg", "openvino"} <= told["versions"].keys()
    engines = {row["engine"]: row for row in told["engines"]}
    assert engines["openvino"]["works"]
    assert all(row["works"] or row["reason"] for row in [*told["engines"], *told["encoders"]])
    assert {row["encoder"]: row["works"] for row in told["encoders"]}["libx264"]


def test_it_shows_changed_settings_but_no_secret(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x" * 5)
    told = report(FOURFOLD_MAX_STREAMS="7", FOURFOLD_TLS_KEY="canary", FOURFOLD_CACHE=str(tmp_path), FOURFOLD_PORT="8000")
    assert told["settings"] == {"FOURFOLD_MAX_STREAMS": "7", "FOURFOLD_TLS_KEY": "(set)"}
    assert (told["cache"]["files"], told["cache"]["bytes"]) == (1, 5)


def test_a_wrong_setting_is_told_and_does_not_end_it() -> None:
    told = doctor(FOURFOLD_PORT="many")
    assert "WRONG: FOURFOLD_PORT ('many')" in told
    assert told.startswith(f"fourfold   {version('fourfold')} on ")
    assert "engine     openvino: " in told
