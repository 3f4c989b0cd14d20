"""Which H.264 frames are kept for a new connection, and when that is not possible any more."""

import pytest

from fourfold_client import InputFrame, _ledger
from fourfold_client._ledger import Ledger

KEY, OTHER = b"\0\0\0\1\x67\x42\0\0\1\x65\x88", b"\0\0\0\1\x41\x9a"  # SPS and an IDR slice; another slice


def ledger_with(units: list[bytes]) -> Ledger:
    ledger = Ledger(60, h264=True)
    assert all(ledger.take(unit)[1] for unit in units)
    return ledger


def again(ledger: Ledger) -> list[int]:
    """The numbers that a new connection would get."""
    return [number for number, _ in ledger.after(-1)]


def test_frames_are_kept_back_to_the_keyframe_that_the_oldest_open_one_needs() -> None:
    ledger = ledger_with([KEY, OTHER, KEY, OTHER])
    ledger.settle(0)
    assert again(ledger) == [0, 1, 2, 3]
    ledger.settle(1)
    assert again(ledger) == [2, 3]
    ledger.settle(2)
    ledger.settle(3)
    assert again(ledger) == [2, 3]
    assert not ledger.settle(3)


def test_after_a_loss_frames_without_their_keyframe_are_useless() -> None:
    ledger = ledger_with([KEY, OTHER, OTHER])
    ledger.settle(0)
    assert ledger.lose() == [1, 2]
    assert ledger.take(OTHER) == (3, False)
    assert ledger.take(InputFrame(OTHER, keyframe=True)) == (4, True)  # a recovery point, which only its maker knows of
    assert again(ledger) == [4]


def test_without_keyframes_a_stream_cannot_be_resumed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ledger, "HISTORY_BYTES", 400)
    ledger = Ledger(60, h264=True)
    for number, unit in enumerate([KEY] + [OTHER] * 40):
        ledger.take(unit)
        ledger.settle(number)
    assert not ledger.can_resume
    assert len(again(ledger)) < 20
    for number, unit in enumerate([KEY, OTHER], 41):
        ledger.take(unit)
        ledger.settle(number)
    assert ledger.can_resume
    assert again(ledger) == [41, 42]
