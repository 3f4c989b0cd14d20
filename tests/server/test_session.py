"""The session: order, back-pressure and clean endings, whatever fails."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines.runner import InferenceError
from engines.slots import FrameFormat, Slot, SlotPool
from server.streams.session import Session
from tests.support.engines import spec_of


@dataclass
class Frame:
    pts: int
    duration: int = 1
    time_base: Fraction = Fraction(1, 25)

    @property
    def planes(self) -> tuple[np.ndarray, ...]:
        return tuple(np.full(shape, self.pts % 256, np.uint8) for shape in ((4, 6), (2, 3), (2, 3)))


class FaultyEngine:
    """An engine whose frames finish out of order and, on request, fail."""

    def __init__(self, fails_at: int = -1) -> None:
        spec = spec_of("bicubic", 2, "yuv420", 6, 4)
        self.pool = SlotPool(FrameFormat.of(spec), 4)
        self._threads, self._fails_at, self.most, self._count = ThreadPoolExecutor(4), fails_at, 0, 0

    def submit(self, slot: Slot) -> Future[float]:
        self._count += 1
        return self._threads.submit(self._work, slot, self._count - 1)

    def _work(self, slot: Slot, number: int) -> float:
        threading.Event().wait(0.002 * (number % 3))
        if number == self._fails_at:
            raise InferenceError("a frame failed")
        slot.picture[...] = slot.inputs[0][0, 0]
        return 0.001


class ListSink:
    def __init__(self, fails_at: int = -1) -> None:
        self.items: list[Any] = []
        self._fails_at = fails_at

    def encode(self, picture: np.ndarray, pts: int, duration: int) -> None:
        if len(self.items) == self._fails_at:
            raise OSError("the disk is full")
        assert (picture == pts % 256).all()
        self.items.append(pts)

    def copy(self, packet: Any) -> None:
        self.items.append(packet)


def is_frame(item: Any) -> bool:
    return isinstance(item, Frame)


def test_everything_arrives_in_the_order_of_the_source() -> None:
    source: list[Any] = [Frame(i) if i % 3 else SimpleNamespace(audio=i) for i in range(300)]
    sink = ListSink()
    session = Session(source, is_frame, FaultyEngine(), sink)
    seen: list[int] = []
    session.run(seen.append)
    assert sink.items == [item.pts if is_frame(item) else item for item in source]
    assert session.frames == seen[-1] == len(session.times.encode) == 200


@pytest.mark.parametrize(("engine_fails", "sink_fails", "error"), [(7, -1, InferenceError), (-1, 7, OSError)])
def test_a_failure_ends_the_session_and_its_thread(engine_fails: int, sink_fails: int, error: type[Exception]) -> None:
    engine = FaultyEngine(engine_fails)
    with pytest.raises(error):
        Session((Frame(i) for i in range(10_000)), is_frame, engine, ListSink(sink_fails)).run()
    assert "decode" not in {thread.name for thread in threading.enumerate()}
    assert len([engine.pool.acquire() for _ in range(engine.pool.count)]) == engine.pool.count  # every slot came back


def test_a_source_that_breaks_delivers_what_came_before() -> None:
    def broken() -> Any:
        yield from (Frame(i) for i in range(5))
        raise ValueError("damaged")

    sink = ListSink()
    with pytest.raises(ValueError, match="damaged"):
        Session(broken(), is_frame, FaultyEngine(), sink).run()
    assert sink.items == [0, 1, 2, 3, 4]


def test_decoder_waits_for_the_encoder() -> None:
    """At most as many frames are decoded ahead as there are slots, and one."""
    decoded, sink = [0], ListSink()
    engine = FaultyEngine()

    def counted() -> Any:
        for i in range(50):
            decoded[0] += 1
            assert decoded[0] - len(sink.items) <= engine.pool.count + 2
            yield Frame(i)

    Session(counted(), is_frame, engine, sink).run()
    assert len(sink.items) == 50
