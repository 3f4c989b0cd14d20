"""Keeps the engine process alive: starts it, sends it a real frame now and then, and starts it again when it does not answer.

The work is done by one thread, not by tasks of the event loop: the engine process dies with the thread that started it.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from engines.client import EngineProcess, RemoteEngine, read_stats
from engines.host import EngineReady, EngineRequest, HostOptions
from engines.runner import EngineDeadError, EngineError
from models.errors import FourfoldError
from models.registry import FORMS, MODELS
from server.catalogue import cores, find_graphs
from server.settings import Settings

log = logging.getLogger(__name__)

PROBE_SIZE = (64, 48)  # input pixels of the frame that is sent to see whether the engine answers
PROBE_SECONDS = 2.0  # between two of them
HANG_SECONDS = 8.0  # without an answer, then the process is killed
FRESH_SECONDS = 2 * PROBE_SECONDS + 1.0  # since the last answer, then the engine does not count as ready any more

FREE_RESTARTS, RESTART_WINDOW_SECONDS = 5, 60.0  # so many at once; then each waits twice as long as the one before
MAX_BACKOFF_SECONDS = 30.0


@dataclass(frozen=True)
class EngineStats:
    """How the engine is doing, since the last time."""

    queue_frames: int
    batches: dict[int, int]  # frames of a call -> calls


class EngineSupervisor:
    """The engine process of a service."""

    def __init__(
        self,
        settings: Settings,
        on_restart: Callable[[], None] = lambda: None,
        on_stats: Callable[[EngineStats], None] = lambda stats: None,
    ) -> None:
        """Args:
        settings: of the service.
        on_restart: called in the event loop each time that the process is started again.
        on_stats: called in the event loop after each probe.
        """
        served = [(model, form) for model in MODELS for form in FORMS]
        graphs = {f"{model.title}-{form}": find_graphs(model.name, model.scale, form)[1] for model, form in served}
        self._process = EngineProcess(graphs, HostOptions(cores(), settings.engine, settings.precision))
        self._probe = f"{find_graphs(settings.model, 4, 'rgb')[1].title}-rgb"
        self._on_restart, self._on_stats = on_restart, on_stats
        self._stop, self._settled = threading.Event(), threading.Event()
        self._failure: FourfoldError | None = None
        self._answered = float("-inf")
        self._ready: EngineReady | None = None
        self._batches: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="engine-supervisor", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def address(self) -> str:
        """Where clients connect; the same for all processes that follow each other."""
        return self._process.address

    @property
    def pid(self) -> int:
        """Of the engine process."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether the engine has answered a real frame lately."""
        return time.monotonic() - self._answered < FRESH_SECONDS

    @property
    def info(self) -> dict[str, Any]:
        """What serves pictures: title, backend, precision, device; empty before the engine was ready for the first time."""
        return asdict(self._ready) if self._ready else {}

    async def start(self) -> None:
        """Starts the engine and waits for its first answer; that takes some seconds where it was never tried before.

        Raises:
            FourfoldError: it cannot be had as it was asked for; the message says why.
        """
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        await asyncio.to_thread(self._settled.wait)
        if self._failure:
            raise self._failure

    async def stop(self) -> None:
        """Ends the engine."""
        self._stop.set()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # what it computes now has nobody to take it
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        restarts: list[float] = []
        try:
            while not self._stop.is_set():
                self._live()
                self._settled.set()
                if self._failure or self._stop.wait(_backoff(restarts, time.monotonic())):
                    return
                restarts.append(time.monotonic())
                self._call(self._on_restart)
        finally:
            self._process.close()
            self._settled.set()

    def _live(self) -> None:
        """One life of the process."""
        try:
            self._process.start()
            self._watch()
        except EngineError as error:
            if self._settled.is_set() or isinstance(error, EngineDeadError):
                log.error("the engine: %s", error)
            else:
                self._failure = error  # it said why it cannot be had, and will say so again
        self._answered = float("-inf")
        self._process.kill()

    def _watch(self) -> None:
        """Sends frames until the process ends, hangs, or is to stop."""
        request = EngineRequest(self._probe, *PROBE_SIZE, None, "latency", 1, lasting=False)
        with (
            RemoteEngine(self.address, request) as engine,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection,
        ):
            connection.connect(self.address)
            connection.settimeout(HANG_SECONDS)
            self._batches = {}
            while not self._stop.is_set():
                self._ask(engine)
                self._ready = engine.ready
                self._settled.set()
                self._report(read_stats(connection))
                if (code := self._process.wait(PROBE_SECONDS)) is not None and not self._stop.is_set():
                    raise EngineDeadError(f"its process ended with exit code {code}")

    def _ask(self, engine: RemoteEngine) -> None:
        slot = engine.pool.slots[0]
        slot.inputs[0][...] = 128
        try:
            engine.submit(slot, time.monotonic()).result(HANG_SECONDS)
        except TimeoutError as error:
            raise EngineDeadError(f"it has not answered for {HANG_SECONDS:.0f} s and is killed") from error
        self._answered = time.monotonic()

    def _report(self, stats: dict[str, Any]) -> None:
        now = {int(frames): calls for frames, calls in stats["batches"].items()}
        new = {frames: calls - self._batches.get(frames, 0) for frames, calls in now.items()}
        self._batches = now
        self._call(partial(self._on_stats, EngineStats(stats["queue_frames"], new)))

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop
        with suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
            self._loop.call_soon_threadsafe(function)


def _backoff(restarts: list[float], now: float) -> float:
    """Seconds to wait before the next start, by the moments of those before."""
    recent = [moment for moment in restarts if now - moment < RESTART_WINDOW_SECONDS]
    return 0.0 if len(recent) < FREE_RESTARTS else min(MAX_BACKOFF_SECONDS, 2.0 ** (len(recent) - FREE_RESTARTS))
