"""The engine process as a worker for pictures uses it: for tiles of one size after another, and again after a restart."""

import logging
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np

from engines.client import RemoteEngine
from engines.host import EngineReady, EngineRequest
from engines.runner import DeviceMemoryError, EngineDeadError, EngineError, InferenceError
from models.resize import UInt8Image
from server.errors import ServiceError

log = logging.getLogger(__name__)

BACK_SECONDS = 8.0
"""How long an engine that went away is waited for."""

_POLL_SECONDS = 0.1


class TileEngine:
    """Upscales tiles; a context manager. Connected to the engine process for one network and tile size at a time."""

    def __init__(self, address: str) -> None:
        """Args: address: of the engine process."""
        self._address = address
        self._engine: RemoteEngine | None = None
        self._request: EngineRequest | None = None
        self.infer_seconds = 0.0
        """What the engine computed for in all; its owner may set it back."""

    @property
    def ready(self) -> EngineReady:
        """What computed the last tile."""
        assert self._engine
        return self._engine.ready

    def upscale(self, graphs: str, rgb: UInt8Image) -> UInt8Image:
        """[h, w, 3] -> [scale * h, scale * w, 3], valid until the next call.

        Args:
            graphs: the network, as the engine knows it.
            rgb: the tile.

        Raises:
            ServiceError: engine_unavailable, bad_output.
        """
        height, width, _ = rgb.shape
        request = EngineRequest(graphs, width, height, None, "latency", slots=1, lasting=False)
        try:
            try:
                return self._submitted(self._opened(request), rgb)
            except EngineDeadError:
                return self._submitted(self._opened_again(request), rgb)
        except EngineError as error:
            raise _told(error) from error

    def _submitted(self, engine: RemoteEngine, rgb: UInt8Image) -> UInt8Image:
        slot = engine.pool.slots[0]
        np.copyto(slot.inputs[0], rgb)
        self.infer_seconds += engine.submit(slot).result()
        return slot.outputs[0]

    def _opened(self, request: EngineRequest) -> RemoteEngine:
        if self._engine is None or self._request != request:
            self._close()
            self._engine, self._request = RemoteEngine(self._address, request), request
        return self._engine

    def _opened_again(self, request: EngineRequest) -> RemoteEngine:
        self._close()
        back = time.monotonic() + BACK_SECONDS
        while time.monotonic() < back:
            with suppress(EngineDeadError):
                return self._opened(request)
            time.sleep(_POLL_SECONDS)
        return self._opened(request)

    def _close(self) -> None:
        if self._engine:
            self._engine.close()
        self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()


def _told(error: EngineError) -> ServiceError:
    """What the client hears; the log has the rest."""
    log.warning("a picture was not upscaled: %s", error)
    if isinstance(error, EngineDeadError):
        return ServiceError("engine_unavailable", "the engine is being restarted; try again", retry_after=5)
    if isinstance(error, DeviceMemoryError):
        return ServiceError("gpu_oom", "the engine has no memory left for this picture; try again later", retry_after=30)
    if isinstance(error, InferenceError):
        return ServiceError("bad_output", "the engine failed on this picture; try another model")
    return ServiceError("engine_unavailable", "the engine cannot run this model here; try another one", retry_after=60)
