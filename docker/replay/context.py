"""The build context: the files that .dockerignore leaves of a folder."""

import shutil
from pathlib import Path

from pathspec import PathSpec


def copy_context(folder: Path, target: Path) -> None:
    """Copies what an engine would be sent. Git's rules of patterns agree with Docker's on all that our file has."""
    ignored = PathSpec.from_lines("gitwildmatch", (folder / ".dockerignore").read_text().splitlines())
    for name in sorted(ignored.match_tree_files(folder, negate=True)):
        if not name.startswith((".git/", ".venv/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, target / name)
