"""Viewers' time: never jumps, whatever publishers' clocks do, and keeps pictures and sound together."""

import pytest

from server.streams.timeline import START_MS, Timeline

WRAP = 1 << 32


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def placed(timeline: Timeline, clock: Clock, stamps: list[int], step_ms: int = 40) -> list[int]:
    """Each stamp `step_ms` after the one before."""
    found = []
    for stamp in stamps:
        clock.now += step_ms / 1000
        found.append(timeline.place(stamp))
    return found


def test_time_starts_at_the_same_place_whatever_the_first_stamp_is(clock: Clock) -> None:
    assert Timeline(clock).place(123_456_789) == START_MS
    assert Timeline(clock).place(0) == START_MS


@pytest.mark.parametrize("edge", [1 << 24, 1 << 31, WRAP])
def test_stamps_pass_the_edges_of_their_numbers(clock: Clock, edge: int) -> None:
    stamps = [(edge - 100 + 40 * n) % WRAP for n in range(6)]
    assert placed(Timeline(clock), clock, stamps) == [START_MS + 40 * n for n in range(6)]


@pytest.mark.parametrize("jump", [3_600_000, -3_600_000, 2_000, -2_000])
def test_a_clock_that_is_set_makes_no_jump(clock: Clock, jump: int) -> None:
    timeline, before = Timeline(clock), [10_000_000 + 40 * n for n in range(5)]
    after = [stamp + 200 + jump for stamp in before]
    assert placed(timeline, clock, before + after) == [START_MS + 40 * n for n in range(10)]


def test_sound_and_pictures_stay_together_where_the_clock_is_set_between_them(clock: Clock) -> None:
    timeline, hour = Timeline(clock), 3_600_000
    pairs = [(0, 10), (40, 50), (hour + 80, 90), (hour + 120, hour + 130), (hour + 160, hour + 170)]
    found = [(timeline.place(video), timeline.place(sound)) for video, sound in pairs if not _later(clock)]
    between = found.pop(2)
    assert [sound - video for video, sound in found] == [10] * 4
    assert abs(between[1] - between[0]) <= 40


def test_a_pause_of_the_publisher_with_its_clock_running_is_a_pause(clock: Clock) -> None:
    timeline = Timeline(clock)
    first = timeline.place(0)
    clock.now += 7
    assert timeline.place(7000) == first + 7000


def test_a_publisher_that_was_frozen_goes_on_at_the_present(clock: Clock) -> None:
    timeline = Timeline(clock)
    first = timeline.place(0)
    clock.now += 7
    assert timeline.place(40) == first + 7000


def test_another_publisher_goes_on_at_the_present_also_when_its_stamps_fit(clock: Clock) -> None:
    timeline = Timeline(clock)
    first = timeline.place(5000)
    clock.now += 2
    timeline.restart()
    assert timeline.place(6500) == first + 2000
    clock.now += 0.04
    assert timeline.place(6540) == first + 2040


def test_stamps_that_differ_from_the_wall_clock_a_little_are_believed(clock: Clock) -> None:
    """A network's jitter is not the stream's, and a clock that is slow stays slow."""
    timeline = Timeline(clock)
    assert placed(timeline, clock, [0, 33, 66, 99], step_ms=50) == [START_MS + n for n in (0, 33, 66, 99)]


def _later(clock: Clock) -> bool:
    clock.now += 0.04
    return False


def test_what_fits_goes_on_where_it_stopped(clock: Clock) -> None:
    timeline = Timeline(clock)
    assert timeline.fits(0)  # nothing was before
    placed(timeline, clock, [1000])
    clock.now += 2
    assert timeline.fits(3000)
    assert timeline.fits(3200)
    assert not timeline.fits(1040)  # held up on its way
    assert not timeline.fits(0)  # somebody else's
