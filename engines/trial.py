"""The trials of `engines.choose` in a process of their own: what crashes there, or keeps memory, does not do so here."""

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

from engines import logs
from engines.choose import choose, is_decided
from engines.parent import die_with_parent
from engines.runner import BackendUnavailableError, EngineSpec, Goal

log = logging.getLogger(__name__)


def try_apart(spec: EngineSpec, goal: Goal, cores: int, backend: str, precision: str) -> None:
    """Sees to it that `choose` with these arguments need not try anything any more.

    Raises:
        BackendUnavailableError: the trials ended unexpectedly.
    """
    arguments = (spec, goal, cores, backend, precision)
    if is_decided(*arguments):
        return
    modules = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    command = [sys.executable, "-P", "-m", "engines.trial"]
    environment = {**os.environ, "PYTHONPATH": modules}
    done = subprocess.run(command, input=pickle.dumps(arguments), env=environment, check=False)  # noqa: S603 - our own arguments
    if done.returncode:
        raise BackendUnavailableError(
            f"trying the engines for {spec.graphs.title} ended with exit code {done.returncode}; name the one to use"
        )


def main() -> None:
    die_with_parent()
    logs.configure()
    spec, goal, cores, backend, precision = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
    try:
        choose(spec, goal, cores, backend, precision, log.info)
    except BackendUnavailableError as error:  # who asked will be told so by its own `choose`
        log.info("%s", error)


if __name__ == "__main__":
    main()
