"""How modules of ours are started as processes. Knows nothing of what they do."""

import os
import sys
from pathlib import Path


def module_command(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment: it finds modules where we do, and only there."""
    modules = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return [sys.executable, "-P", "-m", module, *arguments], {**os.environ, "PYTHONPATH": modules}
