"""The process that workers are forked from: what they need is loaded already, and no thread was ever started.

`server.streams.forkserver_client` starts it as `python -m server.streams.forkserver FD`, where FD is one end of a socketpair
that keeps message boundaries. Messages are JSON objects:

    forkserver: {"ready": true}, once
    api:        {"id": n, "engine_address": …, "kind": …, "options": {…}, "memory_bytes": n, "about": {…}}
                and the worker's socket with it
    forkserver: {"id": n, "pid": n} or {"id": n, "failed": why}, and {"id": n, "exit_code": n} when the worker has ended

It ends when the api process does, however that ends, and takes its workers along. That of multiprocessing also ends,
workers and all, when a fork fails, or when the api process runs out of descriptors in the middle of a request.
"""

import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

from engines import logs
from server.streams import worker

log = logging.getLogger(__name__)

MODULES = (
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.WebPImagePlugin",
    "server.media.decode",
    "server.media.encode",
    "server.streams.live",
    "server.streams.pictures",
    "server.streams.relay",
    "server.streams.video",
    "simplejpeg",
)
"""What workers import, directly or by and by."""

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""Variables that this process is to be started with: NumPy's library would start threads, which a fork would not survive."""

MESSAGE_BYTES = 1 << 16


def main(control: socket.socket) -> None:
    """Serves until the api process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the api's business
    logs.configure()
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # a collection would write to all of these objects, and so copy their pages into each worker
    with suppress(ConnectionError):
        _Forkserver(control).serve()


class _Forkserver:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ids: dict[int, int] = {}  # of running workers, by pid
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        self._tell(ready=True)
        while True:
            ready, _, _ = select.select([self._control, self._woken], [], [])
            if self._woken in ready:
                self._woken.recv(4096)
                self._reap()
            if self._control in ready:
                data, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
                if not data:
                    return
                self._fork(json.loads(data), descriptors)

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> None:
        number = request.pop("id")
        try:
            if not descriptors:
                raise OSError("its socket did not arrive: no descriptor is free")
            pid = os.fork()
        except OSError as error:
            self._tell(id=number, failed=str(error))
        else:
            if not pid:
                _work(socket.socket(fileno=descriptors[0]), **request)
            self._ids[pid] = number
            self._tell(id=number, pid=pid)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _reap(self) -> None:
        with suppress(ChildProcessError):  # there is none left
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self._tell(id=self._ids.pop(found[0]), exit_code=os.waitstatus_to_exitcode(found[1]))

    def _tell(self, **message: Any) -> None:
        self._control.send(json.dumps(message).encode())


def _work(
    sock: socket.socket,
    engine_address: str,
    kind: worker.WorkKind,
    options: dict[str, Any],
    memory_bytes: int,
    about: dict[str, str],
) -> NoReturn:
    """The rest of a worker's life. `about`: what its lines in the log belong to."""
    exit_code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        logs.belong(about)
        worker.main(sock, engine_address, kind, options, memory_bytes)
        exit_code = 0
    except BaseException:
        log.exception("the worker failed")
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(exit_code)  # the way out of the process that it was forked from is not its own


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _control:
        main(_control)
