"""A relay's way in, with sources that a test makes up."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.media import _tags, flv
from server.media.errors import UnreadableError
from server.media.live_encoder import LiveEncoder, LiveVideo
from server.media.paced_file import PacedFile
from server.media.rtmp import AwayError
from server.streams import _relay_intake
from server.streams._inbox import Inbox
from server.streams._live_frames import Broken, End, Input, Outbox, Waiting
from server.streams._relay_intake import RelayIntake
from server.streams._relay_ledger import Ledger
from server.streams._strain import Strain
from server.streams.relay_protocol import Endpoint, RelayOptions


@dataclass
class Scripted:
    """A source: bytes and, between them, seconds to wait; then it is away, or an error is raised."""

    steps: list[bytes | float]
    then: Exception = field(default_factory=lambda: AwayError("ended", "the source has ended"))

    def chunks(self) -> Iterator[bytes]:
        for step in self.steps:
            if isinstance(step, bytes):
                yield step
            else:
                time.sleep(step)
        raise self.then

    def close(self) -> None: ...


def taken(open_source: Callable[[], Any], **options: Any) -> tuple[list[Input], list[dict[str, Any]], Ledger]:
    """What an intake gives of a source, what it says, and its ledger; all sources are over at once."""
    values = {"hold_seconds": 0.0, "model": "xlsr", "scale": 2, "pixels": 1 << 20, "output_pixels": 1 << 24, "frame_queue": 100}
    wanted = RelayOptions(source=Endpoint(url="rtmp://a/b/c"), target=Endpoint(url="rtmp://a/b/d"), **(values | options))
    inbox, ledger, said = Inbox[Input](100, evicts=True), Ledger(), list[dict[str, Any]]()
    RelayIntake(wanted, open_source, lambda: None, inbox, Outbox(), Strain(), ledger, said.append).run()
    items = [inbox.get()]
    while isinstance(items[-1], Waiting):
        items.append(inbox.get())
    return items, said, ledger


def tags(pictures: int, step_ms: int) -> list[bytes]:
    """A stream of small pictures, as FLV."""
    encoder = LiveEncoder(LiveVideo(64, 48, 15, _tags.Tags(1, 1, 1, 1), "libx264", 500_000, 100.0))
    found = [flv.file_header() + flv.picture_configuration(0, encoder.configuration)]
    for number in range(pictures):
        encoded = encoder.encode(np.full((72, 64), 90 + number, np.uint8), number * step_ms, False)
        found.append(flv.picture(number * step_ms, encoded.keyframe, encoded.data))
    return found


def test_pictures_that_are_further_apart_than_a_pause_are_all_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_relay_intake, "PAUSE_SECONDS", 0.1)
    head, first, *rest = tags(6, 150)
    steps: list[bytes | float] = [head, first, *(step for picture in rest for step in (0.15, picture))]
    items, said, ledger = taken(lambda: Scripted(steps))
    assert len(items) == 6 and isinstance(items[-1], End)  # the first one only brings it up to the present
    assert ledger.told()["dropped"] == {"burst": 1}
    assert said[0] == {"type": "incoming"}


def test_what_was_held_up_is_old_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_relay_intake, "PAUSE_SECONDS", 0.1)
    head, *pictures = tags(31, 40)
    steps: list[bytes | float] = [head, pictures[0], 0.04, pictures[1], 0.6, b"".join(pictures[2:17]), 0.04, *pictures[17:]]
    items, _, ledger = taken(lambda: Scripted(steps))
    assert ledger.told()["dropped"] == {"burst": 1 + 15}
    assert len(items) == 1 + 14 + 1


@pytest.mark.parametrize("realtime", [False, True])
def test_a_source_that_never_showed_a_picture_is_an_error(realtime: bool) -> None:
    errors = [AwayError("unreachable", "the source cannot be played"), UnreadableError("only H.264 can be relayed")]
    for error in errors:
        items, _, _ = taken(lambda error=error: Scripted([], error), realtime=realtime)
        (broken,) = items
        assert isinstance(broken, Broken) and str(broken.error) == str(error)


def test_a_source_that_is_over_ends_in_good_order() -> None:
    items, _, _ = taken(lambda: Scripted(list(tags(3, 40))))
    assert isinstance(items[-1], End)


def test_a_playlist_is_no_file_to_relay(tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    with pytest.raises(UnreadableError):
        PacedFile(path)
