"""Runs commands, and says what they said when they fail."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from errors import ReplayError

STEP_SECONDS = 900  # that one command may take
TAIL = 25  # lines of a failed command that are shown


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a command.

    Raises:
        ReplayError: it failed or took too long; the message ends with what it said last.
    """
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=STEP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ReplayError(f"{error.cmd[0]} took longer than {STEP_SECONDS} s") from error
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-TAIL:])
        raise ReplayError(f"{' '.join(map(str, command))[:300]} ended with {done.returncode}:\n{said}")
    return done.stdout


def bash(script: str) -> str:
    """See `run`; for what takes several commands."""
    return run(["bash", "-euc", script])
