"""nginx with its RTMP module, set up by the template that the container image uses too; for the demo, benchmarks and tests.

Knows nothing of relays. What each line of the configuration is for stands in docker/nginx-rtmp/nginx.conf.template.
"""

import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from models.errors import FourfoldError

TEMPLATE = Path(__file__).parents[1] / "docker" / "nginx-rtmp" / "nginx.conf.template"
MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
INSTALL = "install nginx and libnginx-mod-rtmp (Debian, Ubuntu), or run `make system`"
PLACEHOLDER = re.compile(r"\$\{([A-Z_]+)\}")
VALUES = re.compile(r"[\w./:\[\]-]+")  # what nginx takes as one word
SECRETS = re.compile(r"[A-Za-z0-9_-]+")
START_SECONDS = 30.0
ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM")  # of util-linux: SIGTERM when the thread that started it ends, however
PORTS = range(20000, 32000)  # below those that Linux gives to clients: nobody takes one while its server restarts


_given: set[int] = set()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on; each one is given only once."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 - no secret
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def rendered(template: str, values: dict[str, str]) -> str:
    """The template with its ${NAMES} filled in.

    Raises:
        FourfoldError: a value is missing, or would mean more to nginx than one word.
    """
    for name, value in values.items():
        allowed, rule = (SECRETS, "letters, digits, - and _") if name == "HOOK_SECRET" else (VALUES, "one word")
        if not allowed.fullmatch(value):
            shown = "" if name == "HOOK_SECRET" else f" ({value!r})"
            raise FourfoldError(f"{name}{shown} cannot stand in nginx's configuration: it must be {rule}")
    missing = set(PLACEHOLDER.findall(template)) - set(values)
    if missing:
        raise FourfoldError(f"nginx's configuration needs a value for {', '.join(sorted(missing))}")
    return PLACEHOLDER.sub(lambda found: values[found[1]], template)


@dataclass
class RtmpServer:
    """An RTMP server on the loopback interface that can be stopped, killed and started again on the same ports.

    Attributes:
        folder: of all its files; made if it is missing.
        service_url: of the service that its hooks ask, by an IP address.
        secret: that the service knows them by.
        rtmp_port, http_port, hook_port: on 127.0.0.1; free ones if not given.
        process: nginx's first process; None while it does not run.
    """

    folder: Path
    service_url: str
    secret: str
    rtmp_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    hook_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def rtmp_url(self) -> str:
        return f"rtmp://127.0.0.1:{self.rtmp_port}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> Path:
        return self.folder / "nginx.log"

    def start(self) -> None:
        """Returns when it answers.

        Raises:
            FourfoldError: it is not installed, or did not start; the message has its last line.
        """
        command = [*ENDS_WITH_PARENT, _nginx(), "-p", str(self.folder), "-c", str(self._write_configuration()), "-e", "stderr"]
        if os.geteuid() == 0:  # or its worker becomes "nobody", who may not write to the folder
            command += ["-g", f"user {pwd.getpwuid(0).pw_name};"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own arguments
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ends it and its connections in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends all its processes as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def _write_configuration(self) -> Path:
        if not TEMPLATE.exists():
            raise FourfoldError(
                "docker/nginx-rtmp/nginx.conf.template is missing: run this from a copy of Fourfold's repository"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {
            "RUN_FOLDER": str(self.folder.absolute()),
            "RTMP_LISTEN": f"127.0.0.1:{self.rtmp_port}",
            "HTTP_LISTEN": f"127.0.0.1:{self.http_port}",
            "HOOK_LISTEN": f"127.0.0.1:{self.hook_port}",
            "SERVICE_URL": self.service_url,
            "HOOK_SECRET": self.secret,
            "RESOLVER": "127.0.0.1",  # never asked: the service is an IP address
        }
        path = self.folder.absolute() / "nginx.conf"
        path.touch(mode=0o600)
        path.write_text(rendered(TEMPLATE.read_text(), values))
        return path

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process and self.process.poll() is None:
            with (
                suppress(OSError, HTTPException),
                closing(HTTPConnection("127.0.0.1", self.http_port, timeout=5)) as connection,
            ):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.02)
        last = (self.log.read_text(errors="replace").strip() or "it said nothing").splitlines()[-1]
        raise FourfoldError(f"nginx did not start: {last}")


@contextmanager
def rtmp_server(folder: Path, service_url: str, secret: str) -> Iterator[RtmpServer]:
    """Starts an RTMP server on free ports and stops it afterwards."""
    server = RtmpServer(folder, service_url, secret)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _nginx() -> str:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin:/usr/local/sbin")
    if program is None:
        raise FourfoldError(f"nginx is missing: {INSTALL}")
    if not MODULE.exists():
        raise FourfoldError(f"nginx has no RTMP module ({MODULE}): {INSTALL}")
    return program
