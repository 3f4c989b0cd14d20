"""What there is, as `fourfold models` and `fourfold engines` and their HTTP twins tell it: objects that JSON can say."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from typing import Any, NoReturn

import anyio
from anyio import to_thread

from engines.backends import BACKENDS, find_backend
from engines.choose import choose, measured
from engines.runner import BackendUnavailableError, EngineSpec
from models.colour import Colour
from models.registry import MODELS, Model
from server.catalogue import cores, find_graphs

SCALE = 4  # of the report of the service, as of the command without options
REPORT_SECONDS = 60.0


def model_list() -> dict[str, Any]:
    """Every model: scale, parameters, PSNR-Y in dB by set, bytes of its graph for video."""
    return {"models": [_model_row(model) for model in MODELS]}


def engine_list(model: str, scale: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every backend, and how fast those that work here run `model`; what was not measured before is measured now.

    Raises:
        FourfoldError: no such model, or no backend works.
    """
    _, graphs = find_graphs(model, scale, "yuv420")
    spec = EngineSpec(graphs, 480, 270, Colour("bt601", "limited"))
    trials = measured(spec, "throughput", cores(), say=say)
    auto = choose(spec, "throughput", cores()).reason
    return {"engines": backend_rows(), "model": graphs.title, "trials": [asdict(trial) for trial in trials], "auto": auto}


def backend_rows() -> list[dict[str, Any]]:
    """Every backend: whether it works here, its version and precisions, or why it does not."""
    return [_backend_row(name) for name in BACKENDS]


class EngineReports:
    """`engine_list` for the service, made in a process of its own: the api process loads no engine.

    Nothing is measured for it: beside running streams the figures would be wrong. Until a video job or `fourfold engines` did,
    `trials` is empty and `auto` null.
    """

    def __init__(self, model: str) -> None:
        """Args: model: a model's name, or auto."""
        self._model, self._lock = model, anyio.Lock()
        self._report: dict[str, Any] = {}
        self._made = float("-inf")

    async def latest(self) -> dict[str, Any]:
        """At most REPORT_SECONDS old."""
        async with self._lock:
            if time.monotonic() - self._made > REPORT_SECONDS:
                self._report = await to_thread.run_sync(_elsewhere, self._model)
                self._made = time.monotonic()
            return self._report


class _NotMeasuredError(Exception):
    """Nobody knows yet which engine is the fastest."""


def _elsewhere(model: str) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_known, model).result()


def _known(model: str) -> dict[str, Any]:
    """`engine_list` as far as it is known."""

    def stop(_line: str) -> NoReturn:
        raise _NotMeasuredError

    try:
        return engine_list(model, SCALE, stop)
    except _NotMeasuredError:
        title = find_graphs(model, SCALE, "yuv420")[1].title
        return {"engines": backend_rows(), "model": title, "trials": [], "auto": None}


def _model_row(model: Model) -> dict[str, Any]:
    card = model.card()
    figures = {name: figure["psnr_y"] for name, figure in card["figures"].items()}
    size = model.onnx("yuv420").stat().st_size
    return {"name": model.name, "scale": model.scale, "parameters": card["parameters"], "psnr_y": figures, "bytes": size}


def _backend_row(name: str) -> dict[str, Any]:
    try:
        backend = find_backend(name)
        version, precisions = backend.version(), backend.precisions()
    except BackendUnavailableError as error:
        return {"engine": name, "works": False, "version": None, "precisions": {}, "reason": str(error)}
    return {"engine": name, "works": True, "version": version, "precisions": precisions, "reason": None}
