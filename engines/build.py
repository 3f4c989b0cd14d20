"""From what a user asks for to a runner: picks backend and precision, says why, compiles or loads."""

from dataclasses import dataclass, replace

from engines.backends import BACKENDS, find_backend
from engines.cache import compiled
from engines.runner import Backend, BackendUnavailableError, EngineSpec, Precision, Runner


@dataclass(frozen=True)
class Choice:
    """A backend and precision, with the reason in words."""

    backend: str
    precision: Precision
    reason: str


def choose(backend: str = "auto", precision: str = "auto") -> Choice:
    """Picks what to run: the first backend that loads, and its fastest precision, unless they are named.

    Raises:
        BackendUnavailableError: what was named does not work here. A named backend is never replaced by another.
    """
    if backend != "auto":
        return _choice(find_backend(backend), precision, "asked for")
    refusals: list[str] = []
    for name in BACKENDS:
        try:
            return _choice(find_backend(name), precision, "; ".join(["the first that works here", *refusals]))
        except BackendUnavailableError as error:
            refusals.append(f"not {name}: {error}")
    raise BackendUnavailableError(f"no engine works here: {'; '.join(refusals)}")


def _choice(backend: Backend, precision: str, why: str) -> Choice:
    version = backend.version()
    offered = backend.precisions()
    for name, reason in offered.items():
        if precision in ("auto", name):
            return Choice(backend.name, name, f"{backend.name} {version} ({why}), {name} ({reason})")
    raise BackendUnavailableError(f"{backend.name} cannot run {precision} here; it can run {', '.join(offered)}")


def open_runner(backend: str, spec: EngineSpec) -> Runner:
    """A runner for `spec`, from the cache where it was built before."""
    found = find_backend(backend)
    return found.load(compiled(found, spec)[0], spec)


def build(backend: str, spec: EngineSpec) -> bool:
    """Compiles `spec` into the cache; returns False if it was there already."""
    return not compiled(find_backend(backend), spec)[1]


def for_latency(spec: EngineSpec, cores: int) -> EngineSpec:
    """One frame at a time on all cores: for live streams and pictures."""
    return replace(spec, lanes=1, threads=cores)


def for_throughput(spec: EngineSpec, cores: int) -> EngineSpec:
    """A frame a core: for files. Threads that never wait for each other waste nothing."""
    return replace(spec, lanes=cores, threads=1)
