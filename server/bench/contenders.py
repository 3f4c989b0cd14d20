"""Everything that is timed beside one another for one model and size: our engines that work here, and the peers that do."""

from collections.abc import Container, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import numpy as np

from engines.admit import trial_planes
from engines.backends import BACKENDS, CPU_BACKENDS, find_backend
from engines.batching import Lanes
from engines.build import open_runner
from engines.cache import compiled
from engines.runner import BackendUnavailableError, EngineSpec, Goal, Graphs, Layout, PlaneFrame, Precision, Runner
from models.errors import FourfoldError
from models.registry import Model
from server.bench.measure import Work, flood, one_by_one
from server.bench.peers import PEERS, Task
from server.catalogue import cores, find_graphs

GRAPH_BACKENDS = ("tensorrt", "torch")
"""Backends that launch a batch as one CUDA graph; they are timed without them, too."""

WITHOUT_GRAPHS = ", no CUDA graphs"

Row = dict[str, Any]
"""A line of a result, as it is in the JSON."""


@dataclass(frozen=True)
class Contender:
    """Something that upscales frames.

    Attributes:
        about: its row, still without figures.
        work: upscales so many frames.
        least: frames that make it a fair measurement: with few, lanes would wait for work.
    """

    about: Row
    work: Work
    least: int = 1

    @property
    def is_ours(self) -> bool:
        return bool(self.about["kind"] == "engine")


@dataclass
class Field:
    """All contenders for one model and size, and those that could not come, with the reason."""

    contenders: list[Contender] = field(default_factory=list)
    missing: list[Row] = field(default_factory=list)

    def miss(self, name: str, precision: str, error: object) -> None:
        """Notes one that cannot run; of what an error says the first line."""
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.missing.append({"name": name, "precision": precision, "why": why})


def open_engines(here: Field, spec: EngineSpec, stack: ExitStack) -> None:
    """Every backend in every precision, one call at a time and with all lanes busy; `stack` closes them."""
    for name in BACKENDS:
        try:
            offered = _offered(name)
        except BackendUnavailableError as error:
            here.miss(name, "any", error)
            continue
        for precision in get_args(Precision):
            try:
                _check(precision, offered, spec.graphs)
                wanted = replace(spec, precision=precision)
                for goal in get_args(Goal):
                    here.contenders.append(_open_engine(name, wanted, goal, stack))
                    if name in GRAPH_BACKENDS:
                        here.contenders.append(_open_engine(name, wanted, goal, stack, graphs=False))
            except (FourfoldError, RuntimeError, OSError) as error:
                here.miss(name, precision, error)


def open_peers(here: Field, model: Model, spec: EngineSpec, wanted: Sequence[str]) -> None:
    """Every peer, or those of the names that are `wanted`, one call at a time: each spreads a call over the cores by itself."""
    task = _task(model, spec)
    for peer in PEERS:
        try:
            if wanted and peer.name not in wanted:
                raise BackendUnavailableError("not asked for")
            upscale = peer.open(task)
            upscale()  # torch.compile compiles only now
        except Exception as error:  # other people's libraries raise what they like
            here.miss(f"{peer.name} ({peer.device})", peer.precision, error)
            continue
        about = _about("peer", peer.name, peer.precision, peer.form, peer.device, "latency", None)
        here.contenders.append(Contender(about, one_by_one(upscale)))


def _offered(name: str) -> Container[Precision]:
    library = find_backend(name)
    library.version()
    return library.precisions()


def _check(precision: Precision, offered: Container[Precision], graphs: Graphs) -> None:
    if precision not in offered:
        raise BackendUnavailableError("it does not offer that on this machine")
    if graphs.file(precision) is None:
        raise BackendUnavailableError(f"{graphs.title} has no such graph")


def _open_engine(name: str, spec: EngineSpec, goal: Goal, stack: ExitStack, graphs: bool = True) -> Contender:
    layout = find_backend(name).layouts(goal, cores())[0]
    spec = replace(spec, layout=layout)
    runner = open_runner(name, spec) if graphs else _open_without_graphs(name, spec)
    stack.callback(runner.close)
    frames = [_frame(spec, seed) for seed in range(2 * layout.lanes * layout.batch)]
    about = _about(
        "engine",
        name if graphs else name + WITHOUT_GRAPHS,
        spec.precision,
        spec.form,
        "cpu" if name in CPU_BACKENDS else "cuda",
        goal,
        layout,
    )
    if goal == "latency":
        return Contender(about, one_by_one(lambda: runner.infer(frames[:1])))
    lanes = Lanes(runner, layout)
    stack.callback(lanes.close)
    return Contender(about, flood(lanes.submit, frames), least=2 * len(frames))


def _open_without_graphs(name: str, spec: EngineSpec) -> Runner:
    """The same compiled engine, with a launch for each kernel; it was admitted as it serves."""
    library: Any = type(find_backend(name))
    runner: Runner = library(graphs=False).load(compiled(find_backend(name), spec).blob, spec)
    return runner


def _frame(spec: EngineSpec, seed: int) -> PlaneFrame:
    assert spec.width and spec.height
    outputs = (np.zeros(shape, np.uint8) for shape in spec.output_planes(spec.height, spec.width))
    return PlaneFrame(trial_planes(spec, spec.height, spec.width, seed), tuple(outputs))


def _task(model: Model, spec: EngineSpec) -> Task:
    assert spec.width and spec.height
    planes = trial_planes(spec, spec.height, spec.width, 0)
    pictures = EngineSpec(find_graphs(model.name, model.scale, "rgb")[1])
    (rgb,) = trial_planes(pictures, spec.height, spec.width, 0)
    return Task(model, rgb, np.concatenate([plane.ravel() for plane in planes]).reshape(-1, spec.width), cores())


def _about(kind: str, name: str, precision: str, form: str, device: str, goal: Goal, layout: Layout | None) -> Row:
    about = {"kind": kind, "name": name, "precision": precision, "form": form, "device": device, "goal": goal}
    return {**about, "layout": asdict(layout) if layout else None}
