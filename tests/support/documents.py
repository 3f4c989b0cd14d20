"""The code blocks of the documentation, and a folder in which its commands are typed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SECONDS = 240


def blocks(page: str, language: str = "sh") -> list[str]:
    """The code of a page in one language, block after block."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (REPOSITORY / page).read_text(), re.MULTILINE | re.DOTALL)


def block(page: str, word: str) -> str:
    """The one shell block that `word` is in."""
    (found,) = [text for text in blocks(page) if word in text]
    return found


def commands(text: str) -> list[str]:
    """The commands of a block; a line that ends in a backslash goes on."""
    return [command for command in re.split(r"(?<!\\)\n", text) if command]


class Terminal:
    """Types commands as a reader of a page would, who set Fourfold up in `.venv` and has it in PATH.

    Attributes:
        folder: in which they are typed.
        ports: on 127.0.0.1, by those of the page that they stand for; 8000 is the service's.
        variables: of their environment.
    """

    def __init__(self, folder: Path, port: int = 8000, code: Path = REPOSITORY) -> None:
        """Args:
        folder: see above.
        port: of the service.
        code: the checkout whose `fourfold` is run.
        """
        self.folder, self.ports = folder, {8000: port}
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(sys.executable)
        (programs / "fourfold").write_text(f'#!/bin/sh\nPYTHONPATH="{code}" exec {sys.executable} -m server.cli "$@"\n')
        (programs / "fourfold").chmod(0o755)
        (folder / ".curlrc").write_text("fail\nsilent\nshow-error\n")  # an answer that is an error is one for the test, too
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
        self.variables = inherited | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CURL_HOME": str(folder),
            "FOURFOLD_CACHE": os.environ["FOURFOLD_CACHE"],
            "FOURFOLD_DATA_FOLDER": str(folder / "data"),
            "FOURFOLD_PORT": str(port),
        }

    def type(self, text: str) -> str:
        """Runs a block or a command to its end; what it prints.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._meant(text)],
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Starts a command that does not end by itself, and ends it afterwards. What it says is in `running.log`."""
        with (self.folder / "running.log").open("a") as log:
            process = subprocess.Popen(
                ["bash", "-c", self._meant(command)],
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)

    @contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """Starts the service, waits until it is ready, or says that it wants a key, and ends it afterwards."""
        with self.running(command) as process:
            deadline = time.monotonic() + SECONDS
            while not self._answers():
                assert process.poll() is None and time.monotonic() < deadline, (self.folder / "running.log").read_text()
                time.sleep(0.1)
            yield

    def _meant(self, text: str) -> str:
        for written, own in self.ports.items():
            text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:{own}")
        return text

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.ports[8000], timeout=5)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
        finally:
            connection.close()
