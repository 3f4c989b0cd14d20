"""When a live stream takes another model, by a clock that only goes when it is told to."""

import time

import pytest

from engines.runner import EngineRefusedError
from server.media.live_picture import Shape
from server.streams._ladder import RISE_SECONDS, STAY_SECONDS, Ladder
from server.streams._rungs import Rung
from server.streams._strain import FRAMES, WINDOW_SECONDS, Strain
from tests.support.fake_engine import FakeHost

SHAPE = Shape("rgb", 32, 24)


class Stream:
    """A stream that stands on a rung."""

    def __init__(self, model: str = "xlsr", patient: bool = False) -> None:
        self.now = 1000.0
        self.host, self.strain = FakeHost(), Strain(self._clock)
        self.ladder = Ladder(model, 4, patient, lambda request: self.host.connect("", request), self.strain, self._clock)
        self.rung: Rung = self.ladder.find(SHAPE)

    def _clock(self) -> float:
        return self.now

    def live(self, seconds: float, lost: int = 0, made: int = FRAMES) -> str:
        """Some time passes, and so many frames; the model after that."""
        for _ in range(lost):
            self.strain.lost(by_engine=True)
        for _ in range(made):
            self.strain.made()
        self.now += seconds
        self.rung = self.ladder.better(self.rung, SHAPE) or self.rung
        if self.ladder._move:  # an engine is opened, in a thread
            self.ladder._move.opening.wait(60)
            self.rung = self.ladder.better(self.rung, SHAPE) or self.rung
        return self.rung.model


def test_a_stream_that_loses_little_stays() -> None:
    stream = Stream()
    assert stream.live(WINDOW_SECONDS, lost=2) == "xlsr"
    assert stream.live(WINDOW_SECONDS, lost=5, made=0) == "xlsr"  # too few to say anything


def test_one_that_loses_more_goes_down_and_comes_up_after_a_while() -> None:
    stream = Stream("swift-srgan")
    assert stream.live(WINDOW_SECONDS, lost=FRAMES) == "xlsr"
    assert stream.live(WINDOW_SECONDS, lost=FRAMES) == "bicubic"
    assert stream.live(RISE_SECONDS - 1) == "bicubic"
    assert stream.live(1) == "xlsr"
    assert stream.rung.reason == "recovered"
    assert stream.live(RISE_SECONDS) == "swift-srgan"


def test_one_that_cannot_stay_up_tries_ever_less_often() -> None:
    stream = Stream()
    for pause in (10, 20, 40, 80, 160, 160):
        assert stream.live(WINDOW_SECONDS, lost=FRAMES) == "bicubic"
        assert stream.live(pause - 1) == "bicubic"
        assert stream.live(1) == "xlsr"
    stream.live(STAY_SECONDS + 1)
    assert stream.live(WINDOW_SECONDS, lost=FRAMES) == "bicubic"
    assert stream.live(RISE_SECONDS) == "xlsr"  # it had stayed, so it need not wait long


def test_one_that_wants_every_frame_never_leaves_its_network_for_being_slow() -> None:
    stream = Stream("swift-srgan", patient=True)
    assert stream.live(WINDOW_SECONDS, lost=10 * FRAMES) == "swift-srgan"


def test_an_engine_that_dies_below_the_top_comes_back_there() -> None:
    stream = Stream("swift-srgan")
    assert stream.live(WINDOW_SECONDS, lost=FRAMES) == "xlsr"
    stream.host.kill()
    stream.rung.dead = True
    assert stream.live(0) == "bicubic"
    assert stream.rung.reason == "engine_unavailable"
    stream.host.up = True
    deadline = time.monotonic() + 60
    while stream.live(0) != "xlsr" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (stream.rung.model, stream.rung.reason) == ("xlsr", "engine_back")


def test_an_engine_that_says_no_later_leaves_the_stream_where_it_is() -> None:
    stream = Stream("swift-srgan")
    stream.host.refuses = True
    assert stream.live(WINDOW_SECONDS, lost=FRAMES) == "swift-srgan"
    with pytest.raises(EngineRefusedError):
        stream.ladder.find(SHAPE)


def test_another_size_stays_on_its_rung() -> None:
    stream = Stream()
    assert stream.live(WINDOW_SECONDS, lost=FRAMES) == "bicubic"
    assert stream.ladder.find(Shape("rgb", 64, 48)).model == "bicubic"
    assert len(stream.host.engines) == 1
