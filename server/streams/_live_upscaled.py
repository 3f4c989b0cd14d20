"""What came of a frame in the engine: its picture, or the same by interpolation where the engine is gone or hangs.

Knows nothing of codecs or clients.
"""

import time

from engines.runner import EngineDeadError, Plane
from engines.slots import FrameFormat
from server.media.live_picture import Shape
from server.streams._live_frames import Upscaling
from server.streams._rungs import FALLBACK, Spare
from server.streams._strain import Strain

HANG_SECONDS = 2.0
"""How long after its deadline a live frame may still be in the engine, before the engine is thought to hang."""


class Upscaled:
    """Waits for frames. One thread at a time."""

    def __init__(self, scale: int, droppable: bool, strain: Strain) -> None:
        """Args:
        scale: of the model.
        droppable: frames are not waited for for ever.
        strain: to be told when the engine is waited for.
        """
        self._scale, self._droppable, self._strain = scale, droppable, strain
        self._spare: Spare | None = None

    def plan(self, shape: Shape) -> None:
        """Frames of this shape follow."""
        if self._spare:
            self._spare.close()
        self._spare = Spare(FrameFormat(shape.form, self._scale, shape.width, shape.height))

    def wait_for(self, item: Upscaling) -> tuple[Plane, str, float]:
        """The picture, the model that made it, and the seconds that it took.

        Raises:
            LateError, InferenceError, DeviceMemoryError: there is none.
        """
        patience = max(0.0, item.deadline + HANG_SECONDS - time.monotonic()) if self._droppable else None
        try:
            with self._strain.waiting():
                seconds = item.done.result(patience)
            return item.slot.picture, item.rung.model, seconds
        except TimeoutError:
            item.rung.dead = True
        except EngineDeadError:
            pass
        started = time.perf_counter()
        assert self._spare
        return self._spare.upscale(item.slot.inputs), FALLBACK, time.perf_counter() - started


def stages_of(item: Upscaling, infer_seconds: float) -> tuple[float, float, float]:
    """Seconds that a frame was decoded for, waited, and was inferred."""
    done = item.done_at[0] if item.done_at else time.monotonic()
    return item.decode_seconds, max(0.0, done - item.submitted - infer_seconds), infer_seconds
