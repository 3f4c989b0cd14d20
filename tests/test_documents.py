"""What README, quick start and operations say to type works as it stands, block after block, in a copy of the repository.

Left out: the lines `make test` and `make check`, since a suite cannot run itself, and blocks marked `text`, which need Docker.
"""

import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.documents import REPOSITORY, Terminal, blocks

SERVING, KEYS = ("README.md", "docs/quick-start.md"), ("README.md", "docs/operations.md")
LEFT_OUT = ("make test", "make check")
SERVICE = ".venv/bin/fourfold serve\n"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """In the tracked files as they are now; `make` finds an environment that is ready, whose `fourfold` runs this very copy."""
    folder = tmp_path / "fourfold"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():  # neither removed just now nor a folder that is linked
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    opened = Terminal(folder, code=folder)
    (folder / ".venv" / ".base").touch()
    return opened


def run_blocks(page: str) -> list[str]:
    """The shell blocks of a page, without the lines that are not run here."""
    kept = ["".join(line for line in block.splitlines(True) if line.strip() not in LEFT_OUT) for block in blocks(page)]
    return [block for block in kept if block.strip()]


@pytest.mark.parametrize("page", dict.fromkeys((*SERVING, *KEYS)))
def test_every_block_works(page: str, terminal: Terminal) -> None:
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", 8000)) == 0
    assert not taken, "something listens on port 8000, where the page's service belongs: end it first"
    with ExitStack() as services:
        for block in run_blocks(page):
            if block == SERVICE:
                services.enter_context(terminal.serving(block))
            else:
                terminal.type(block)
    if page in SERVING:
        assert (terminal.folder / "demo" / "upscaled.mp4").stat().st_size > 10_000
        assert (terminal.folder / "demo" / "larger.png").stat().st_size > 10_000
    if page in KEYS:
        assert "api_keys" in {path.name for path in (terminal.folder / "secrets").iterdir()}


@pytest.mark.parametrize("page", SERVING)
def test_the_page_shows_how_to_begin(page: str) -> None:
    text = "".join(run_blocks(page))
    assert "make demo" in text
    assert SERVICE in text
