"""The api process's side of `server.streams.forkserver`, where the messages between the two are listed."""

import asyncio
import json
import signal
import socket
import subprocess
from itertools import count
from typing import Any, Self

from server.streams._children import module_command
from server.streams.forkserver import ENVIRONMENT, MESSAGE_BYTES


class Forkserver:
    """A running forkserver."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._process, self._control = process, control
        self._numbers = count()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._pids: dict[int, asyncio.Future[int]] = {}
        self._exit_codes: dict[int, asyncio.Future[int]] = {}
        self._waiting: asyncio.Task[int] | None = None
        loop.add_reader(control, self._receive)

    @classmethod
    async def started(cls) -> Self:
        """Starts one, and waits until it is warm.

        Raises:
            OSError: it cannot be started.
        """
        forkserver = cls(*await asyncio.to_thread(_launched))
        await forkserver._ready
        return forkserver

    @property
    def gone(self) -> bool:
        """Whether it has ended, and every worker with it."""
        return self._waiting is not None

    async def fork(self, request: dict[str, Any], sock: socket.socket) -> tuple[int, "asyncio.Future[int]"]:
        """Forks a worker.

        Args:
            request: the arguments of `server.streams.worker.main`, but for the socket, and `about` (see `engines.logs`).
            sock: its end of the channel; still to be closed here.

        Returns:
            Its process id, and its exit code once it has one.

        Raises:
            OSError: there is no room for it, or the forkserver is gone.
        """
        number, loop = next(self._numbers), asyncio.get_running_loop()
        pid = self._pids[number] = loop.create_future()
        exit_code = self._exit_codes[number] = loop.create_future()
        try:
            socket.send_fds(self._control, [json.dumps({"id": number, **request}).encode()], [sock.fileno()])
            return await pid, exit_code
        except OSError:
            self._exit_codes.pop(number, None)
            raise
        finally:
            del self._pids[number]

    async def aclose(self) -> None:
        """Ends it."""
        self._end()
        assert self._waiting
        await self._waiting

    def _receive(self) -> None:
        try:
            data = self._control.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(json.loads(data))
        else:
            self._end()

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._ready.set_result(None)
        elif "exit_code" in message:
            self._exit_codes.pop(message["id"]).set_result(message["exit_code"])
        elif (pid := self._pids.get(message["id"])) is None:
            pass  # whoever asked for this worker does not wait any more
        elif "pid" in message:
            pid.set_result(message["pid"])
        else:
            pid.set_exception(OSError(message["failed"]))

    def _end(self) -> None:
        """Hangs up, or notes that the other side has: no worker outlives its forkserver."""
        if self.gone:
            return
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self._waiting = asyncio.create_task(asyncio.to_thread(self._process.wait))
        unanswered: list[asyncio.Future[Any]] = [self._ready, *self._pids.values()]
        for future in unanswered:
            if not future.done():
                future.set_exception(OSError("the forkserver ended"))
        for exit_code in self._exit_codes.values():
            exit_code.set_result(-signal.SIGKILL)
        self._exit_codes.clear()


def _launched() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and our end of the socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    command, environment = module_command("server.streams.forkserver", str(theirs.fileno()))
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own arguments
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment | ENVIRONMENT
            )
        except OSError:
            ours.close()
            raise
    return process, ours
