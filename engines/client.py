"""An engine in a process of its own, as its callers see it: a crash there is an error here, not the end.

The other side is `engines.host`. Only slot numbers travel between the two; frames lie in shared memory.
"""

import json
import multiprocessing
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engines.host import MESSAGE_BYTES, EngineReady, EngineRequest, HostOptions, run
from engines.runner import (
    BackendUnavailableError,
    DeviceMemoryError,
    EngineDeadError,
    EngineError,
    EngineRefusedError,
    Graphs,
    InferenceError,
    LateError,
)
from engines.slots import FrameFormat, Slot, SlotPool

STOP_SECONDS = 5.0
"""How long an engine process may take to end before it is given up."""


OPEN_SECONDS = 120.0
"""How long an engine may take to be ready; the first time that a network is used here, candidates are tried."""


class EngineProcess:
    """An engine process for any number of clients, and its address; a context manager.

    The address stays the same when the process is started again.
    """

    def __init__(self, catalogue: Mapping[str, Graphs], options: HostOptions) -> None:
        """Args:
        catalogue: what clients may ask for.
        options: what they get.
        """
        self._folder = tempfile.mkdtemp(prefix="fourfold-")  # nobody else may enter it
        self.address = str(Path(self._folder) / "engine")
        self._catalogue, self._options = dict(catalogue), options
        self._process: Any = None

    def start(self) -> None:
        """Starts the process and waits until it takes clients. It dies with the thread that calls this.

        Raises:
            BackendUnavailableError: the options cannot be met here; the message says why.
            EngineDeadError: it ended by itself; it may be tried again.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        arguments = (self.address, self._catalogue, self._options, theirs)
        process = context.Process(target=run, args=arguments, name="fourfold-engine", daemon=True)
        process.start()
        self._process = process
        theirs.close()
        try:
            refusal = ours.recv()
        except EOFError:
            raise EngineDeadError(f"the engine process ended at its start, with exit code {self.wait()}") from None
        finally:
            ours.close()
        if refusal:
            raise BackendUnavailableError(refusal)

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        return int(self._process.pid)

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code of the process, once it has ended; None if it has not after so many seconds."""
        self._process.join(seconds)
        return None if self._process.exitcode is None else int(self._process.exitcode)

    def kill(self) -> None:
        """Ends the process, whatever it does. Its clients notice at once."""
        if self._process:
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process and gives up the address."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class RemoteEngine:
    """One client's engine in an engine process; see `engines.engine.Engine`."""

    def __init__(self, address: str, request: EngineRequest) -> None:
        """Connects, and waits until the engine is ready; for a network that is new to it this takes some seconds.

        Args:
            address: of an `EngineProcess`.
            request: what will be upscaled.

        Raises:
            EngineDeadError: there is no engine, or it went away meanwhile; it may come back.
            BackendUnavailableError, EngineRefusedError: it said no, and will again.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(address)
            self._socket.settimeout(OPEN_SECONDS)
            self._send({"open": asdict(request)})
            data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES, 1)
            answer = json.loads(data) if data else {}
        except OSError as error:
            self._socket.close()
            raise EngineDeadError(f"the engine process does not answer ({error.strerror or error})") from error
        self._socket.settimeout(None)
        if "ready" not in answer:
            self._socket.close()
            raise _refusal(answer)
        self.ready = EngineReady(**answer["ready"])
        """What serves."""
        frames = FrameFormat(self.ready.form, self.ready.scale, request.width, request.height)
        self.pool = SlotPool(frames, request.slots, descriptors[0])
        os.close(descriptors[0])
        self._pending: dict[int, Future[float]] = {}
        self._lock, self._dead = threading.Lock(), False
        self._reader = threading.Thread(target=self._read, name="engine-answers", daemon=True)
        self._reader.start()

    def submit(self, slot: Slot, deadline: float | None = None, droppable: bool = False) -> Future[float]:
        """Queues a slot whose inputs are filled.

        Args:
            slot: of this engine's pool; not to be touched until the future is done.
            deadline: when the frame is due, in seconds of `time.monotonic`, which is one clock for all processes.
            droppable: it need not be computed once it is late.

        Returns:
            The seconds that inference took, once the slot's outputs are filled. It raises LateError or InferenceError for this
            frame, EngineDeadError if the engine is gone.
        """
        future: Future[float] = Future()
        with self._lock:
            if self._dead:
                raise EngineDeadError("the engine process is gone")
            self._pending[slot.number] = future
        with suppress(OSError):  # the reader sees the same broken socket and fails every pending future, this one too
            self._send({"frame": slot.number, "due": deadline, "droppable": droppable})
        return future

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.send(json.dumps(message).encode())

    def _read(self) -> None:
        """Hands answers to their futures until the engine is gone."""
        with suppress(OSError):
            while data := self._socket.recv(MESSAGE_BYTES):
                self._settle(json.loads(data))
        with self._lock:
            self._dead = True
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(EngineDeadError("the engine process is gone"))

    def _settle(self, answer: dict[str, Any]) -> None:
        with self._lock:
            future = self._pending.pop(answer["done"] if "done" in answer else answer["failed"])
        if "done" in answer:
            future.set_result(answer["seconds"])
        else:
            kind = {"LateError": LateError, "DeviceMemoryError": DeviceMemoryError}.get(answer["kind"], InferenceError)
            future.set_exception(kind(answer["why"]))

    def close(self) -> None:
        """Leaves the engine. Slots must not be used any more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(STOP_SECONDS)
        self._socket.close()
        self.pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_stats(connection: socket.socket) -> dict[str, Any]:
    """How an engine process is doing: {"queue_frames": n, "batches": {frames: calls since its start}}.

    Args: connection: to its address.
    Raises: EngineDeadError: it is gone.
    """
    try:
        connection.send(b'{"stats": {}}')
        data = connection.recv(MESSAGE_BYTES)
    except OSError:
        data = b""
    if not data:
        raise EngineDeadError("the engine process is gone")
    stats: dict[str, Any] = json.loads(data)["stats"]
    return stats


def _refusal(answer: dict[str, Any]) -> EngineError:
    if "refused" not in answer:
        return EngineDeadError("the engine process went away")
    kinds: dict[str, type[EngineError]] = {"EngineRefusedError": EngineRefusedError, "EngineDeadError": EngineDeadError}
    return kinds.get(answer["kind"], BackendUnavailableError)(answer["refused"])
