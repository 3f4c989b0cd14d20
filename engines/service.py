"""The engine process: owns a runner, answers slot numbers with slot numbers. Its caller is `engines.client`."""

import ctypes
import os
import signal
import threading
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from engines.batching import Lanes
from engines.build import open_at_once
from engines.runner import EngineDeadError, EngineSpec
from engines.slots import SlotPool
from models.errors import FourfoldError

PR_SET_PDEATHSIG = 1

DEAD_EXIT = 70
"""Exit code of a process whose device does not answer any more (EX_SOFTWARE)."""


def serve(connection: Connection, backend: str, spec: EngineSpec, slots: int) -> None:
    """The process's main function: maps the caller's slots, opens the runner, and infers until told to stop (None).

    Sends None once it is ready, or why it is not; then (slot number, seconds, None or what went wrong) for each frame.
    """
    die_with_parent()
    descriptor = recv_handle(connection)
    pool = SlotPool(spec, slots, descriptor)
    os.close(descriptor)
    try:
        runner = open_at_once(backend, spec)
        runner.pin(pool.memory)
    except (FourfoldError, OSError, RuntimeError) as error:
        connection.send(str(error))
        return
    connection.send(None)
    lanes, sending = Lanes(runner, spec.layout), threading.Lock()

    def answer(number: int, future: Future[float]) -> None:
        if future.cancelled():
            return
        failure = future.exception()
        if isinstance(failure, EngineDeadError):
            os._exit(DEAD_EXIT)  # nothing here can be trusted any more, not even to close it; the caller sees the pipe break
        with sending:
            connection.send((number, 0.0 if failure else future.result(), str(failure) if failure else None))

    try:
        while (number := connection.recv()) is not None:
            lanes.submit(pool.slots[number]).add_done_callback(partial(answer, number))
    except EOFError:
        pass  # the caller is gone: nobody waits for an answer
    lanes.close()
    runner.close()


def die_with_parent() -> None:
    """Asks the kernel to end this process when the one that started it ends, however it ends. Linux only, elsewhere nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it will say stop
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
