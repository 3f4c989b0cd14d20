"""The way in: what a client sends becomes pictures that wait for an engine.

Knows nothing of engines.
"""

import time

from server.errors import ServiceError
from server.media.errors import MediaError
from server.media.live_input import LiveInput, open_input
from server.media.live_picture import FrameLimits, Picture
from server.streams._inbox import Allowance, Inbox
from server.streams._live_frames import Arrived, Broken, End, Input, Outbox, Waiting, code_of
from server.streams._strain import Strain
from server.streams.protocol import ARRIVAL, HEADER_BYTES, LiveOptions, parse_header
from server.streams.wire import Channel

PATIENCE_FRAMES = 300
"""Messages in a row that may give no picture: a stream may be joined between two keyframes."""

HASTE = 1.1
"""How many times the agreed frame rate is still let in: clocks differ."""


class Intake:
    """Reads a session's frames. `run` is a thread's main function."""

    def __init__(
        self,
        channel: Channel,
        options: LiveOptions,
        limits: FrameLimits,
        inbox: Inbox[Input],
        outbox: Outbox,
        strain: Strain,
    ) -> None:
        """Args:
        channel: where frames come from.
        options: of the session.
        limits: of a frame.
        inbox: where pictures go.
        outbox: where drops and failures go.
        strain: to be told of drops.
        """
        self._channel, self._options, self._limits = channel, options, limits
        self._inbox, self._outbox, self._strain = inbox, outbox, strain
        start = options.start
        self._allowance = Allowance(start.fps * HASTE, options.frame_queue) if start.late == "drop" else None
        self._undecoded: dict[int, Arrived] = {}  # by number, the oldest first
        self._fruitless = 0

    def run(self) -> None:
        """Reads until the client ends or leaves, or sends what cannot be followed by anything."""
        try:
            words = self._options.start.input
            decoder = open_input(words.format, words.width, words.height, self._limits)
            while (received := self._channel.receive()) is not None:
                if self._take(decoder, received[1]):
                    return
            self._inbox.close()
            self._outbox.close()
        except BaseException as error:  # whatever it is, it belongs to the thread that talks to the client
            self._inbox.put_last(Broken(error))

    def _take(self, decoder: LiveInput, message: memoryview) -> bool:
        """One message; whether it was the last."""
        frame = Arrived(parse_header(message, ARRIVAL.size), *ARRIVAL.unpack_from(message))
        payload = message[ARRIVAL.size + HEADER_BYTES :]
        if payload.nbytes:
            self._decode(decoder, frame, payload)
        elif not frame.header.ends:
            self._fail(frame.sequence, ServiceError("unreadable", "the frame has no payload"))
        if frame.header.ends:
            self._pass_on(decoder.flush(), 0.0)
            self._give_up_before(frame.sequence + 1)
            self._inbox.put_last(End(frame.header))
        return frame.header.ends

    def _decode(self, decoder: LiveInput, frame: Arrived, payload: memoryview) -> None:
        self._undecoded[frame.sequence] = frame
        started = time.perf_counter()
        try:
            pictures = decoder.decode(frame.sequence, payload)
        except (MediaError, ServiceError) as error:
            if code_of(error) != "unreadable":
                raise
            del self._undecoded[frame.sequence]
            self._fail(frame.sequence, error)
            return
        self._pass_on(pictures, time.perf_counter() - started)
        if len(self._undecoded) > PATIENCE_FRAMES:
            raise ServiceError("unreadable", f"{PATIENCE_FRAMES} access units gave no picture; start with a keyframe")

    def _pass_on(self, pictures: list[tuple[int, Picture]], seconds: float) -> None:
        for number, picture in pictures:
            self._fruitless = 0
            self._give_up_before(number)
            if number in self._undecoded:  # or it was damaged, as was said, and is shown nevertheless
                self._wait(Waiting(self._undecoded.pop(number), picture, seconds))

    def _wait(self, waiting: Waiting) -> None:
        if self._allowance and not self._allowance.take(waiting.frame.at):
            self._outbox.drop(waiting.frame.sequence, "queue_full")
        elif isinstance(evicted := self._inbox.put(waiting), Waiting):
            self._outbox.drop(evicted.frame.sequence, "queue_full")
            self._strain.lost()

    def _give_up_before(self, number: int) -> None:
        """Pictures come in order: what came in before and has none by now never will."""
        for early in [early for early in self._undecoded if early < number]:
            del self._undecoded[early]
            self._fail(early, ServiceError("unreadable", "no picture came of this access unit"))

    def _fail(self, sequence: int, error: MediaError | ServiceError) -> None:
        self._fruitless += 1
        if self._fruitless > PATIENCE_FRAMES:
            raise error
        self._outbox.fail(sequence, error)
