"""The engine of one video: on threads of this process, in a process of its own, or in the service's engine process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engines.choose import choose
from engines.client import EngineProcess, RemoteEngine
from engines.engine import Engine, LocalEngine
from engines.host import MAX_SLOT_PIXELS, EngineRequest, HostOptions
from engines.runner import EngineSpec
from server.catalogue import cores

FRAMES_ON_THE_WAY = 3
"""Slots beyond those that the engine works on: one being filled, one waiting, one being encoded."""

REMOTE_LANES = 8
"""Slots for what an engine process may work on at once: its client asks before it knows."""

Say = Callable[[str], None]
"""Takes one line about a choice that was made or something that was lost."""


@dataclass(frozen=True)
class OpenedEngine:
    """An engine that is ready, and what it is."""

    engine: Engine
    backend: str
    precision: str
    reason: str  # why this one, in words


@contextmanager
def open_here(spec: EngineSpec, backend: str, precision: str, own_process: bool, say: Say) -> Iterator[OpenedEngine]:
    """An engine on this machine, in this process or one of its own; `auto` as backend or precision takes the fastest.

    Raises:
        FourfoldError: what was named does not work here.
    """
    if own_process:
        host = HostOptions(cores(), backend, precision)
        with EngineProcess({_key(spec): spec.graphs}, host) as process, open_remote(process.address, spec) as opened:
            yield opened
        return
    choice = choose(spec, "throughput", cores(), backend, precision, say)
    slots = choice.spec.layout.lanes * choice.spec.layout.batch + FRAMES_ON_THE_WAY
    with LocalEngine(choice.backend, choice.spec, slots) as engine:
        yield OpenedEngine(engine, choice.backend, choice.spec.precision, choice.reason)


@contextmanager
def open_remote(address: str, spec: EngineSpec) -> Iterator[OpenedEngine]:
    """An engine in the process that listens at `address`.

    Raises:
        EngineError: see `RemoteEngine`.
    """
    assert spec.width and spec.height
    slots = max(1, min(REMOTE_LANES + FRAMES_ON_THE_WAY, MAX_SLOT_PIXELS // (spec.width * spec.height)))
    request = EngineRequest(_key(spec), spec.width, spec.height, spec.colour, "throughput", slots)
    with RemoteEngine(address, request) as engine:
        ready = engine.ready
        reason = f"{ready.backend}, {ready.precision}, in a process of its own"
        yield OpenedEngine(engine, ready.backend, ready.precision, reason)


def _key(spec: EngineSpec) -> str:
    """What an engine process knows these graphs by."""
    return f"{spec.graphs.title}-{spec.form}"
