"""Processes of our own modules."""

import subprocess
from pathlib import Path

from server.streams._children import module_command


def test_a_module_that_lies_where_the_service_is_started_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "engines.py").write_text("raise SystemExit(3)")
    command, environment = module_command("engines.parent")
    assert subprocess.run(command, env=environment, cwd=tmp_path, timeout=60).returncode == 0
