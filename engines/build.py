"""From a spec to a runner that may serve: compiled or from the cache, and admitted."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from engines.admit import admit
from engines.backends import find_backend
from engines.cache import compiled, is_cached
from engines.runner import EngineSpec, Frame, Plane, Runner

log = logging.getLogger(__name__)


def open_runner(backend: str, spec: EngineSpec) -> Runner:
    """A runner for `spec`, from the cache where it was built before. It has shown that its pictures are right.

    Raises:
        BackendUnavailableError: the backend does not work here, or not with this network.
        EngineRefusedError: its pictures are wrong.
    """
    found = find_backend(backend)
    engine = compiled(found, spec)
    runner = found.load(engine.blob, spec)
    if engine.parity_db is None:
        try:
            engine.admitted(admit(runner, spec))
        except BaseException:
            runner.close()
            raise
    return runner


def open_at_once(backend: str, spec: EngineSpec) -> Runner:
    """As `open_runner`; but where the engine for the spec's size is still to be built, one for any size serves meanwhile."""
    if spec.width is None or is_cached(find_backend(backend), spec):
        return open_runner(backend, spec)
    any_size = open_runner(backend, replace(spec, width=None, height=None))
    return SwappingRunner(any_size, lambda: open_runner(backend, spec))


def build(backend: str, spec: EngineSpec) -> bool:
    """Compiles `spec` into the cache and admits it; returns False if it was there already."""
    was_there = is_cached(find_backend(backend), spec)
    open_runner(backend, spec).close()
    return not was_there


class SwappingRunner:
    """A runner that makes way for a better one as soon as that is ready, between two frames."""

    def __init__(self, first: Runner, better: Callable[[], Runner]) -> None:
        """Args: better: opens the better one; called on a thread of its own. If it fails, the first one stays."""
        self._current, self._memory = first, list[Plane]()
        self._users: dict[Runner, int] = {first: 0}  # calls that run now; a runner leaves with the last of its calls
        self._lock = threading.Lock()
        self.settled = threading.Event()
        """Set once the better runner serves, or has failed."""
        self._opening = threading.Thread(target=self._swap, args=(better,), name="build-engine", daemon=True)
        self._opening.start()

    def infer(self, frames: Sequence[Frame]) -> None:
        """See `engines.runner.Runner.infer`."""
        with self._lock:
            runner = self._current
            self._users[runner] += 1
        try:
            runner.infer(frames)
        finally:
            with self._lock:
                self._users[runner] -= 1
                unused = self._take_unused()
            for old in unused:
                old.close()

    def pin(self, memory: Plane) -> None:
        """See `engines.runner.Runner.pin`."""
        with self._lock:
            self._memory.append(memory)
            self._current.pin(memory)

    def unpin(self, memory: Plane) -> None:
        """See `engines.runner.Runner.unpin`."""
        with self._lock:
            self._memory = [pinned for pinned in self._memory if pinned is not memory]
            for runner in self._users.keys() | {self._current}:
                runner.unpin(memory)

    def close(self) -> None:
        """See `engines.runner.Runner.close`; waits until nothing is being built any more."""
        self._opening.join()
        self._current.close()

    def _swap(self, better: Callable[[], Runner]) -> None:
        try:
            runner = better()
            with self._lock:
                for memory in self._memory:
                    runner.pin(memory)
                self._users[runner] = 0
                self._current = runner
                unused = self._take_unused()
            for old in unused:
                old.close()
        except Exception as error:  # whatever it was, frames go on as before
            log.warning("the engine for any size goes on serving: %s", error)
        finally:
            self.settled.set()

    def _take_unused(self) -> list[Runner]:
        """Runners that were replaced and have no call left; they are forgotten here."""
        unused = [runner for runner, calls in self._users.items() if runner is not self._current and not calls]
        for runner in unused:
            del self._users[runner]
        return unused
