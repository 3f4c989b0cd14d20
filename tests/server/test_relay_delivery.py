"""A relay's way out without an engine or a target: what viewers are sent, and what they never are."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np
import pytest

from engines.slots import FrameFormat
from server.media import _tags
from server.media.live_decoder import LiveDecoder
from server.media.live_picture import FrameLimits, Shape
from server.streams import _relay_delivery
from server.streams._egress import Item, VideoTag
from server.streams._live_frames import Arrived, End, Outbox, Planned, Upscaling
from server.streams._relay_delivery import RelayDelivery
from server.streams._relay_ledger import Ledger
from server.streams._rungs import BicubicRung
from server.streams._strain import Strain
from server.streams.protocol import END, Header
from server.streams.relay_protocol import Endpoint, RelayOptions

FPS = 50.0
OPTIONS = RelayOptions(
    source=Endpoint(url="rtmp://a/b/c"), target=Endpoint(url="rtmp://a/b/d"), model="xlsr", scale=2, pixels=1, output_pixels=1
)


@dataclass
class Target:
    """Stands for `Egress`."""

    connected: bool = True
    wants_keyframe: bool = False
    items: list[Item] = field(default_factory=list)

    def put(self, item: Item) -> None:
        self.items.append(item)
        if isinstance(item, VideoTag):
            item.sent()


class Relayed:
    """A delivery that runs, and what it sends."""

    def __init__(self) -> None:
        self.target, self.outbox, self.ledger = Target(), Outbox(), Ledger()
        self.said: list[dict[str, Any]] = []
        self.number, self.began = 0, time.monotonic()
        tell = self.said.append
        self.delivery = RelayDelivery(OPTIONS, lambda: FPS, self.outbox, Strain(), self.target, self.ledger, tell)  # type: ignore[arg-type]

    def plan(self, width: int, height: int) -> None:
        """Pictures of this size follow."""
        self.shape = Shape("yuv420", width, height, _tags.assumed(height))
        self.rung = BicubicRung(FrameFormat("yuv420", 2, width, height), "test")
        self.outbox.put(Planned(self.shape, self.rung))

    def picture(self, grey: int, behind_seconds: float = 0.0) -> None:
        """A picture of one grey, that was taken some time ago."""
        slot, done = self.rung.pool.acquire(), Future[float]()
        for plane in slot.outputs:
            plane[...] = grey
        done.set_result(0.0)
        now = time.monotonic()
        pts_us = 1_000_000 + round(1e6 * (now - behind_seconds - self.began))
        frame = Arrived(Header(self.number, 0, pts_us), now)
        self.ledger.came()
        self.number += 1
        self.outbox.put(Upscaling(frame, self.rung, slot, done, now + 60, now, [now], 0.0))

    def greys(self) -> list[int]:
        """Of all pictures that were sent."""
        found, configuration, decoder = [], b"", None
        for number, tag in enumerate(tag for tag in list(self.target.items) if isinstance(tag, VideoTag)):
            if decoder is None or tag.configuration != configuration:
                configuration, decoder = (
                    tag.configuration,
                    LiveDecoder(tag.configuration, False, FrameLimits(1, 1 << 20, 1 << 20)),
                )
            for _, picture in decoder.decode(number, tag.data):
                luma = np.empty((picture.shape.height, picture.shape.width), np.uint8)
                chroma = [np.empty((picture.shape.height // 2, picture.shape.width // 2), np.uint8) for _ in "uv"]
                picture.fill((luma, *chroma))
                found.append(round(float(luma.mean())))
        return found

    def sent(self, pictures: int) -> None:
        """Waits until so many were sent."""
        deadline = time.monotonic() + 60
        while len(self.target.items) < pictures:
            assert time.monotonic() < deadline, f"{len(self.target.items)} of {pictures} pictures"
            time.sleep(0.005)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_relay_delivery, "HOLD_SECONDS", 0.1)


@contextmanager
def relayed(width: int = 64, height: int = 48) -> Iterator[Relayed]:
    running = Relayed()
    running.plan(width, height)
    thread = Thread(target=running.delivery.run)
    thread.start()
    try:
        yield running
    finally:
        running.outbox.put_last(End(Header(running.number, END)))
        thread.join()


def near(greys: list[int], *expected: int) -> bool:
    """Whether each is one of these, give or take what the encoder makes of it."""
    return all(min(abs(grey - other) for other in expected) <= 3 for grey in greys)


def test_nothing_is_shown_of_a_new_size_before_its_first_picture() -> None:
    with relayed() as running:
        running.picture(100)
        running.sent(5)  # it is held
        running.plan(96, 64)
        time.sleep(0.3)
        running.picture(200)
        running.sent(len(running.target.items) + 5)
        assert near(running.greys(), 100, 200)


def test_what_is_held_is_the_latest_picture_also_of_those_that_the_target_did_not_get() -> None:
    with relayed() as running:
        running.picture(100)
        running.sent(1)
        running.target.connected = False
        running.picture(200)
        time.sleep(0.05)
        seen = len(running.target.items)
        running.target.wants_keyframe = running.target.connected = True
        running.sent(seen + 3)
        assert near(running.greys()[seen:], 200)


def test_a_target_that_was_never_there_is_shown_no_picture_that_was_never_made() -> None:
    with relayed() as running:
        running.target.connected = False
        running.picture(100)
        time.sleep(0.05)
        running.target.connected = True
        running.sent(3)
        assert near(running.greys(), 100)


def test_pictures_that_take_longer_than_those_before_a_pause_are_shown_after_it() -> None:
    with relayed() as running:
        running.picture(100)
        running.sent(5)
        for _ in range(20):
            running.picture(200, behind_seconds=0.2)
            time.sleep(1 / FPS)
        running.sent(15)
        stamps = [tag.pts_ms for tag in running.target.items if isinstance(tag, VideoTag)]
        assert stamps == sorted(set(stamps))
        assert 200 in [round(grey, -1) for grey in running.greys()]
        states = [words["state"] for words in running.said if words["type"] == "state"]
        assert states[:3] == ["running", "holding", "running"]
