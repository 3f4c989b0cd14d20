"""Which engine is the fastest on this machine: measured once for each network, then remembered.

Only engines that were admitted are timed, so INT8 serves where it is both right and faster here.
"""

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.admit import trial_planes
from engines.backends import BACKENDS, find_backend
from engines.batching import Lanes
from engines.build import open_runner
from engines.cache import FORMAT, as_json, cache_folder, replace_file
from engines.runner import (
    Backend,
    BackendUnavailableError,
    EngineError,
    EngineSpec,
    Goal,
    InferenceError,
    Layout,
    PlaneFrame,
    Precision,
)

log = logging.getLogger(__name__)

TRIAL_SIZE = (480, 270)  # input pixels
ROUNDS = 3  # of measurements, in turn, so that a noisy neighbour disturbs all candidates alike
ROUND_SECONDS = 0.15  # of one candidate, where a frame takes less
HOPELESS = 3.0  # times the fastest one's first call: not timed again


@dataclass(frozen=True)
class Trial:
    """What came of one candidate."""

    backend: str
    precision: Precision
    layout: Layout
    refusal: str | None  # why it may not serve, if it may not
    frame_ms: float | None  # wall time of a frame with all lanes busy


@dataclass(frozen=True)
class Choice:
    """What to run, with the reason in words."""

    backend: str
    spec: EngineSpec
    reason: str


def choose(
    spec: EngineSpec,
    goal: Goal,
    cores: int,
    backend: str = "auto",
    precision: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> Choice:
    """Picks backend, precision and layout: the fastest that is right, of those that were asked for.

    Args:
        spec: what to run; its precision and layout are filled in.
        goal: what it is for.
        cores: CPU cores to use.
        backend: its name, or auto.
        precision: its name, or auto.
        say: takes a line where this is going to take a while.

    Raises:
        BackendUnavailableError: what was named does not work here. It is never replaced by something else.
    """
    candidates, refusals = _candidates(spec, goal, cores, backend, precision)
    if not candidates:
        raise BackendUnavailableError("; ".join(refusals))
    if len(candidates) == 1:
        return _choice(candidates[0], spec, "asked for" if backend != "auto" else "the only one here")
    trials = measured(spec, goal, cores, backend, precision, say)
    best, others = trials[0], trials[1:]
    if best.frame_ms is None:
        raise BackendUnavailableError("; ".join(trial.refusal or "" for trial in trials))
    beaten = [f"{t.backend} {t.precision} {t.frame_ms:.3g}" for t in others if t.frame_ms and t.layout == best.layout]
    return _choice(best, spec, f"{best.frame_ms:.3g} ms a frame in a trial; {', '.join(beaten) or 'no other'}")


def is_decided(spec: EngineSpec, goal: Goal, cores: int, backend: str = "auto", precision: str = "auto") -> bool:
    """Whether `choose` has its answer without trying anything: there is one candidate or none, or the result is remembered."""
    candidates, _ = _candidates(spec, goal, cores, backend, precision)
    return len(candidates) < 2 or _read(_path(spec, goal, candidates)) is not None


def measured(
    spec: EngineSpec,
    goal: Goal,
    cores: int,
    backend: str = "auto",
    precision: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
    """All candidates, as for `choose`: the fastest one in its layouts, then the others, those that may not serve last."""
    candidates, _ = _candidates(spec, goal, cores, backend, precision)
    path = _path(spec, goal, candidates)
    stored = _read(path)
    if stored is not None:
        return stored
    say(f"trying {len(candidates)} engines for {spec.graphs.title} on this machine; this is done once")
    width, height = TRIAL_SIZE
    trial_spec = spec if spec.width is None else replace(spec, width=width, height=height)
    trials = _sorted(_race(trial_spec, candidates))
    if trials[0].frame_ms is not None:
        layouts = find_backend(trials[0].backend).layouts(goal, cores)
        rivals = [replace(trials[0], layout=layout, frame_ms=None) for layout in layouts]
        if len(rivals) > 1:
            trials = [*_sorted(_race(trial_spec, rivals)), *trials[1:]]  # times of one race compare, not those of two
    _write(path, trials)
    return trials


def _candidates(spec: EngineSpec, goal: Goal, cores: int, backend: str, precision: str) -> tuple[list[Trial], list[str]]:
    """What there is to try of what was asked for, each in its likeliest layout; and why there is not more."""
    found, refusals = list[Trial](), list[str]()
    for name in BACKENDS if backend == "auto" else (backend,):
        try:
            library = find_backend(name)
            library.version()
            offered = library.precisions()
        except BackendUnavailableError as error:
            refusals.append(str(error))
            continue
        usable = [p for p in offered if precision in ("auto", p) and spec.graphs.file(p)]
        found += [Trial(name, p, library.layouts(goal, cores)[0], None, None) for p in usable]
        if not usable:
            able = ", ".join(p for p in offered if spec.graphs.file(p))
            refusals.append(f"{name} cannot run {spec.graphs.title} in {precision} here; it can in {able or 'nothing'}")
    return found, refusals


def _choice(trial: Trial, spec: EngineSpec, why: str) -> Choice:
    library = find_backend(trial.backend)
    reason = f"{trial.backend} {library.version()}, {trial.precision} ({why})"
    return Choice(trial.backend, replace(spec, precision=trial.precision, layout=trial.layout), reason)


def _race(spec: EngineSpec, candidates: list[Trial]) -> list[Trial]:
    """Opens all candidates and times those that are admitted, round by round."""
    with ExitStack() as stack:
        racers, results = list[_Racer](), list[Trial]()
        for trial in candidates:
            try:
                racers.append(stack.enter_context(_Racer(spec, trial)))
            except (EngineError, OSError, RuntimeError) as error:
                results.append(replace(trial, refusal=str(error)))
        fastest = min((racer.first for racer in racers), default=0.0)
        for _ in range(ROUNDS):
            for racer in racers:
                if racer.first <= HOPELESS * fastest:
                    racer.run()
        return results + [replace(racer.trial, frame_ms=racer.frame_ms()) for racer in racers]


class _Racer:
    """An engine in a trial; a context manager."""

    def __init__(self, spec: EngineSpec, trial: Trial) -> None:
        self.trial, layout = trial, trial.layout
        width, height = TRIAL_SIZE
        spec = replace(spec, precision=trial.precision, layout=layout)
        inputs = trial_planes(spec, height, width, 1)
        self._runner = open_runner(trial.backend, spec)
        self._lanes = Lanes(self._runner, layout)
        self._frames = [
            PlaneFrame(inputs, tuple(np.empty(shape, np.uint8) for shape in spec.output_planes(height, width)))
            for _ in range(layout.lanes * layout.batch)
        ]
        self._seconds: list[float] = []
        try:
            self.first = min(self._pass(), self._pass())
        except InferenceError:
            self.__exit__()
            raise

    def run(self) -> None:
        """One round."""
        passes = max(1, min(50, int(ROUND_SECONDS / self.first / len(self._frames))))
        self._seconds.append(sum(self._pass() for _ in range(passes)) / passes)

    def frame_ms(self) -> float:
        return 1000 * (statistics.median(self._seconds) if self._seconds else self.first)

    def _pass(self) -> float:
        """Seconds a frame while every lane has a full batch."""
        started = time.perf_counter()
        for future in [self._lanes.submit(frame) for frame in self._frames]:
            future.result()
        return (time.perf_counter() - started) / len(self._frames)

    def __enter__(self) -> "_Racer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._lanes.close()
        self._runner.close()


def _sorted(trials: list[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: float("inf") if trial.frame_ms is None else trial.frame_ms)


def _path(spec: EngineSpec, goal: Goal, candidates: list[Trial]) -> Path:
    """Where the result of these trials is kept."""
    return cache_folder() / "trials" / f"{_key(spec, goal, candidates)}.json"


def _key(spec: EngineSpec, goal: Goal, candidates: list[Trial]) -> str:
    """Changes with everything that the result depends on."""
    libraries: list[Backend] = [find_backend(name) for name in sorted({trial.backend for trial in candidates})]
    about = {
        "format": FORMAT,
        "graphs": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in spec.graphs.files.items()},
        "form": spec.form,
        "any_size": spec.width is None,
        "goal": goal,
        "candidates": [asdict(trial) for trial in candidates],
        "libraries": [[library.name, library.version(), library.device()] for library in libraries],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path) -> list[Trial] | None:
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return [Trial(**{**row, "layout": Layout(**row["layout"])}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, trials: list[Trial]) -> None:
    try:
        replace_file(path, as_json([asdict(trial) for trial in trials]))
    except OSError as error:
        log.warning("which engine is the fastest could not be kept in %s: %s", path.parent, error.strerror)
