"""The engine process: owns the device, and upscales the frames of any number of clients. Their side is `engines.client`.

Clients connect to a Unix socket that keeps message boundaries. A message is one JSON object; the memory for a client's frames
goes to it as a descriptor with the first answer. A client that breaks the rules or leaves loses its connection; the others
notice nothing, and its memory stays until nothing is written there any more.

    client: {"open": {...EngineRequest}}
    host:   {"ready": {...EngineReady}} and the descriptor, or {"refused": why, "kind": name of the error}

    client: {"frame": slot, "due": seconds or null, "droppable": bool}, as many as it has slots
    host:   {"done": slot, "seconds": s} or {"failed": slot, "why": why, "kind": name of the error}, in any order

    client: {"stats": {}}, instead of opening anything
    host:   {"stats": {"queue_frames": n, "batches": {"1": n, ...}}}
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engines import logs
from engines.backends import find_backend
from engines.batching import Scheduler, Station
from engines.build import open_at_once, open_runner
from engines.choose import choose
from engines.parent import die_with_parent
from engines.runner import BackendUnavailableError, EngineDeadError, EngineSpec, Goal, Graphs
from engines.slots import FrameFormat, SlotPool
from engines.trial import try_apart
from models.colour import Colour
from models.errors import FourfoldError
from models.registry import Form

log = logging.getLogger(__name__)

_Key = tuple[str, EngineSpec]  # backend, and what it runs

DEAD_EXIT = 70
"""Exit code of a process whose device does not answer any more (EX_SOFTWARE)."""

MESSAGE_BYTES = 4096  # of one message, at most
MAX_SLOTS = 64  # of one client: its answers fit the socket's buffer, so that a client that does not read holds nobody up
MAX_SLOT_PIXELS = 2**25  # input pixels of all slots of one client: 1.6 GB at x4
KEPT_RUNNERS = 8  # that nobody uses, so that the next client of the same size need not wait


@dataclass(frozen=True)
class EngineRequest:
    """What a client wants to have upscaled."""

    graphs: str  # a key of the host's catalogue, such as xlsr-x4-yuv420
    width: int  # input pixels of all its frames
    height: int
    colour: Colour | None  # yuv420 only
    goal: Goal
    slots: int  # frames that may be on their way at once
    lasting: bool = True  # many frames of this size will come: an engine for exactly this size is worth building


@dataclass(frozen=True)
class EngineReady:
    """What a client gets."""

    title: str
    form: Form
    scale: int
    backend: str
    precision: str
    device: str


@dataclass(frozen=True)
class HostOptions:
    """What all clients of a host get: see `engines.choose.choose`."""

    cores: int
    backend: str = "auto"
    precision: str = "auto"


def run(address: str, catalogue: Mapping[str, Graphs], options: HostOptions, started: Connection) -> None:
    """The process's main function: listens at `address` for ever. Sends None over `started` once it does, or why it cannot."""
    die_with_parent()
    logs.configure()
    try:
        if options.backend != "auto":
            find_backend(options.backend).precisions()  # fails here and now where it cannot be used
        Path(address).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(address)
        listener.listen(128)
    except (FourfoldError, OSError) as error:
        started.send(str(error))
        return
    started.send(None)
    started.close()
    Host(catalogue, options).serve(listener)


class Host:
    """The runners of all clients, on one device."""

    def __init__(self, catalogue: Mapping[str, Graphs], options: HostOptions) -> None:
        self.catalogue, self.options = catalogue, options
        self.scheduler = Scheduler(workers=options.cores)
        self.stations = Stations()

    def serve(self, listener: socket.socket) -> None:
        """Takes clients until the listener is closed."""
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=_Client(self, connection).run, name="client", daemon=True).start()

    def open(self, request: EngineRequest) -> tuple[_Key, Station, EngineReady]:
        """The station for a request, and what it is. `stations.release(key)` gives it back.

        Raises:
            FourfoldError: there is no such network here, or no engine for it.
        """
        graphs = self.catalogue.get(request.graphs)
        if graphs is None:
            raise BackendUnavailableError(f"{request.graphs} is not served here; there is {', '.join(sorted(self.catalogue))}")
        width, height = (request.width, request.height) if request.lasting else (None, None)
        spec, options = EngineSpec(graphs, width, height, request.colour), self.options
        wanted = (spec, request.goal, options.cores, options.backend, options.precision)
        try_apart(*wanted)
        choice = choose(*wanted)
        key, station = self.stations.get(choice.backend, choice.spec)
        device = find_backend(choice.backend).device()
        ready = EngineReady(graphs.title, graphs.form, graphs.scale, choice.backend, choice.spec.precision, device)
        return key, station, ready


@dataclass(eq=False)
class _Opened:
    """A station that is open, or being opened."""

    station: Future[Station] = field(default_factory=Future)
    users: int = 0


class Stations:
    """Runners by what they run, opened once and shared, and kept for a while after their last user."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[_Key, _Opened] = {}  # the one asked for last is the last

    def get(self, backend: str, spec: EngineSpec) -> tuple[_Key, Station]:
        """The station for `spec`; opened here, or waited for while someone else opens it. `release` gives it back."""
        key = (backend, spec)
        with self._lock:
            mine = key not in self._opened
            opened = self._opened[key] = _Opened() if mine else self._opened.pop(key)
            opened.users += 1
        if mine:
            self._open(key, opened)
        return key, opened.station.result()

    def release(self, key: _Key) -> None:
        """Gives a station back."""
        with self._lock:
            self._opened[key].users -= 1
            unused = [key for key, opened in self._opened.items() if not opened.users]
            surplus = [self._opened.pop(key) for key in unused[: max(0, len(unused) - KEPT_RUNNERS)]]
        for opened in surplus:
            opened.station.result().runner.close()

    def _open(self, key: _Key, opened: _Opened) -> None:
        backend, spec = key
        try:
            runner = open_at_once(backend, spec) if spec.width else open_runner(backend, spec)
            opened.station.set_result(Station(runner, spec.layout))
        except BaseException as error:  # it is everybody's who waits
            with self._lock:
                del self._opened[key]
            opened.station.set_exception(error)


class _Client:
    """One connection: its frames go through one station."""

    def __init__(self, host: Host, connection: socket.socket) -> None:
        self._host, self._connection = host, connection
        self._pending: dict[int, Future[float]] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serves the client until it leaves, or breaks the rules."""
        try:
            message = self._receive()
            if "stats" in message:
                self._serve_stats()
            else:
                self._serve_frames(_request_of(message))
        except _NonsenseError as error:
            log.warning("a client sent nonsense and is cut off: %s", error)
        except (EOFError, ConnectionError):
            pass  # it left
        except Exception:
            log.exception("a client is cut off")
        finally:
            self._connection.close()

    def _serve_stats(self) -> None:
        scheduler = self._host.scheduler
        while True:
            batches = {str(frames): calls for frames, calls in scheduler.batches.copy().items()}
            self._send({"stats": {"queue_frames": scheduler.waiting(), "batches": batches}})
            self._receive()

    def _serve_frames(self, request: EngineRequest) -> None:
        try:
            key, station, ready = self._host.open(_checked(request))
        except FourfoldError as error:
            self._send({"refused": str(error), "kind": type(error).__name__})
            return
        try:
            frames = FrameFormat(ready.form, ready.scale, request.width, request.height)
            pool = SlotPool(frames, request.slots)
            try:
                self._answer_frames(pool, station, ready)
            finally:
                pool.close()
        finally:
            self._host.stations.release(key)

    def _answer_frames(self, pool: SlotPool, station: Station, ready: EngineReady) -> None:
        station.runner.pin(pool.memory)
        try:
            socket.send_fds(self._connection, [json.dumps({"ready": asdict(ready)}).encode()], [pool.descriptor])
            while True:
                self._submit(pool, station, **_frame_of(self._receive()))
        finally:
            self._abandon()
            station.runner.unpin(pool.memory)

    def _submit(self, pool: SlotPool, station: Station, frame: int, due: float | None, droppable: bool) -> None:
        with self._lock:
            if frame in self._pending or not 0 <= frame < pool.count:
                raise _NonsenseError(f"slot {frame} is no slot, or is being upscaled")
            future = self._host.scheduler.submit(station, pool.slots[frame], due, droppable)
            self._pending[frame] = future
        future.add_done_callback(partial(self._answer, frame))

    def _answer(self, number: int, future: Future[float]) -> None:
        if future.cancelled():
            return
        failure = future.exception()
        if isinstance(failure, EngineDeadError):
            log.critical("the device is lost: %s", failure)
            os._exit(DEAD_EXIT)  # nothing here can be trusted any more, not even to close it; clients see their sockets break
        with self._lock:
            self._pending.pop(number, None)
        if failure:
            answer = {"failed": number, "why": str(failure)[:500], "kind": type(failure).__name__}
        else:
            answer = {"done": number, "seconds": future.result()}
        with suppress(OSError):
            self._send(answer)

    def _abandon(self) -> None:
        """Takes the frames of a client that left out of the queue, and waits for those that are being written."""
        with self._lock:
            pending = list(self._pending.values())
        for future in pending:
            if not future.cancel():
                future.exception()

    def _receive(self) -> dict[str, Any]:
        data = self._connection.recv(MESSAGE_BYTES)
        if not data:
            raise EOFError
        try:
            message = json.loads(data)
        except ValueError as error:
            raise _NonsenseError(error) from error
        if not isinstance(message, dict):
            raise _NonsenseError("not an object")
        return message

    def _send(self, message: dict[str, Any]) -> None:
        """Sends without waiting: a client whose buffer is full has stopped reading long ago, and is cut off."""
        try:
            self._connection.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)
        except BlockingIOError:
            log.warning("a client does not read its answers and is cut off")
            self._connection.shutdown(socket.SHUT_RDWR)


def _checked(request: EngineRequest) -> EngineRequest:
    size = f"{request.slots} slots of {request.width}x{request.height}"
    if not (0 < request.slots <= MAX_SLOTS and request.width > 0 and request.height > 0):
        raise BackendUnavailableError(f"{size} cannot be had; at most {MAX_SLOTS} slots can")
    if request.slots * request.width * request.height > MAX_SLOT_PIXELS:
        raise BackendUnavailableError(f"{size} take too much memory; take fewer")
    return request


class _NonsenseError(Exception):
    """A message that no client of ours sends."""


def _request_of(message: dict[str, Any]) -> EngineRequest:
    try:
        about = dict(message["open"])
        colour = about.pop("colour")
        request = EngineRequest(**about, colour=Colour(**colour) if colour else None)
    except (KeyError, TypeError, ValueError) as error:
        raise _NonsenseError(error) from error
    numbers, words = (request.width, request.height, request.slots), (request.graphs, request.goal)
    if not all(type(number) is int for number in numbers) or not all(isinstance(word, str) for word in words):
        raise _NonsenseError("numbers and words are mixed up")
    return request


def _frame_of(message: dict[str, Any]) -> dict[str, Any]:
    due = message.get("due")
    if type(message.get("frame")) is not int or not (due is None or isinstance(due, int | float)):
        raise _NonsenseError("not a frame")
    return {"frame": message["frame"], "due": due, "droppable": bool(message.get("droppable"))}
