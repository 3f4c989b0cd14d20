"""The engine process: owns a runner, answers slot numbers with slot numbers. Its caller is `engines.client`."""

import ctypes
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from engines.build import open_runner
from engines.runner import EngineSpec, InferenceError
from engines.slots import SlotPool
from models.errors import FourfoldError

PR_SET_PDEATHSIG = 1


def serve(connection: Connection, backend: str, spec: EngineSpec, slots: int) -> None:
    """The process's main function: maps the caller's slots, opens the runner, and infers until told to stop (None).

    Sends None once it is ready, or why it is not; then (slot number, seconds, None or what went wrong) for each frame.
    """
    die_with_parent()
    descriptor = recv_handle(connection)
    pool = SlotPool(spec, slots, descriptor)
    os.close(descriptor)
    try:
        runner = open_runner(backend, spec)
    except (FourfoldError, OSError, RuntimeError) as error:
        connection.send(str(error))
        return
    connection.send(None)
    sending = threading.Lock()

    def infer(number: int) -> None:
        slot, failure = pool.slots[number], None
        started = time.perf_counter()
        try:
            runner.infer(slot.inputs, slot.outputs)
        except InferenceError as error:
            failure = str(error)
        with sending:
            connection.send((number, time.perf_counter() - started, failure))

    with ThreadPoolExecutor(runner.lanes, thread_name_prefix="infer") as threads:
        try:
            while (number := connection.recv()) is not None:
                threads.submit(infer, number)
        except EOFError:
            pass  # the caller is gone: nobody waits for an answer
    runner.close()


def die_with_parent() -> None:
    """Asks the kernel to end this process when the one that started it ends, however it ends. Linux only, elsewhere nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it will say stop
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
