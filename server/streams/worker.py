"""What every worker process does first: it locks itself in. Then it does the one kind of work that it was started for.

A worker parses what strangers send. It can be killed at any moment, and nobody but its own client notices.
"""

import importlib
import os
import resource
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engines.parent import die_with_parent
from server.streams.wire import Channel

WorkKind = Literal["pictures", "live", "video", "relay"]
"""`server.streams.KIND.run(channel, engine_address, options)` is what a worker does."""


@dataclass(frozen=True)
class WorkerJob:
    """What a worker is for."""

    kind: WorkKind
    options: dict[str, Any] = field(default_factory=dict)  # JSON-able, some kilobytes at most; the kind's own


def main(sock: socket.socket, engine_address: str, kind: WorkKind, options: dict[str, Any], memory_bytes: int) -> None:
    """Works until the job is done or the api process hangs up.

    Args:
        sock: one end of a socketpair; the api process has the other.
        engine_address: of the engine process.
        kind: of work.
        options: see `WorkerJob`.
        memory_bytes: what the process may allocate; beyond that, allocations fail.
    """
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _close_all_but(0, 1, 2, sock.fileno())
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold what strangers sent, and fill the disk
    channel = Channel(sock)
    with suppress(ConnectionError):  # the api process hung up: nobody wants the rest
        importlib.import_module(f"server.streams.{kind}").run(channel, engine_address, options)
    channel.close()


def _close_all_but(*kept: int) -> None:
    """Closes what came along from the forkserver, which otherwise would not see that the api is gone."""
    for name in [path.name for path in Path("/proc/self/fd").iterdir()]:
        if int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))
