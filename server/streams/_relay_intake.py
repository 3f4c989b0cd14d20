"""A relay's way in: whoever publishes, however often, becomes pictures that wait for an engine, and sound that passes by.

Knows nothing of engines or of the target.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

from server.media import flv
from server.media.errors import UnreadableError
from server.media.live_decoder import LiveDecoder
from server.media.live_picture import FrameLimits, Picture, Shape
from server.media.rtmp import AwayError
from server.streams._inbox import Closed, Inbox
from server.streams._live_frames import Arrived, Broken, End, Input, Outbox, Sound, Waiting
from server.streams._relay_ledger import Ledger
from server.streams._strain import Strain
from server.streams.protocol import END, Header
from server.streams.relay_protocol import RelayOptions, message
from server.streams.timeline import Timeline

PATIENCE_FRAMES = 300
"""Damaged pictures in a row, after which the source is connected again."""

RETRY_SECONDS = 0.25
"""Between two tries to reach a source."""

PAUSE_SECONDS = 0.5
"""Without a byte, after which what comes next may be a heap of old pictures, or of another publisher."""

LIVE_SECONDS = 0.004
"""That a read waits for, at least, when there is nothing old to be read any more."""

BURST_SECONDS = 1.0
"""For which pictures may be passed over for being old; after that they are taken as they come."""

REORDERED_FRAMES = 64
"""That may be decoded and not shown yet; older ones will never be."""

USUAL_FPS = 30.0


class Source(Protocol):
    """What is needed of `server.media.rtmp.RtmpSource`."""

    def chunks(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class RelayIntake:
    """Reads the source of a relay. `run` is a thread's main function.

    Attributes:
        fps: of the pictures that come, as far as the stream says it.
    """

    def __init__(
        self,
        options: RelayOptions,
        open_source: Callable[[], Source],
        begun: Callable[[], None],
        inbox: Inbox[Input],
        outbox: Outbox,
        strain: Strain,
        ledger: Ledger,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        """Args:
        options: of the relay.
        open_source: connects to it.
        begun: called when a stream begins: there will be pictures.
        inbox: where pictures go.
        outbox: where sound goes.
        strain: to be told of drops.
        ledger: to be told of every frame.
        tell: takes messages to the api process.
        """
        self._options, self._open_source, self._begun = options, open_source, begun
        self._inbox, self._outbox, self._strain, self._ledger, self._tell = inbox, outbox, strain, ledger, tell
        self._limits = FrameLimits(options.scale, options.pixels, options.output_pixels)
        self._timeline = Timeline()
        self._number = 0
        self._stopped = threading.Event()
        self._heard = time.monotonic()  # when a picture or some sound came last
        self.fps = USUAL_FPS
        self._begin()

    def stop(self) -> None:
        """Nothing more is wanted; what came before is still passed on."""
        self._stopped.set()
        self._inbox.put_last(End(Header(self._number, END)))

    def run(self) -> None:
        """Reads until the source was away for too long, or it is told to stop."""
        try:
            while not self._stopped.is_set():
                away = self._connection()
                self._pass_on(self._flushed(), 0.0)
                self._give_up_before(self._number)
                over = away.final or time.monotonic() - self._heard > self._options.hold_seconds
                if over and (away.reason == "unreadable" or not self._number):
                    raise away
                if over or self._stopped.wait(RETRY_SECONDS):
                    break
                self._tell(message("reconnect", side="source", reason=away.reason))
            self.stop()
        except Closed:
            pass
        except BaseException as error:  # whatever it is, it belongs to the thread that runs the relay
            self._inbox.put_last(Broken(error))

    def _begin(self) -> None:
        """Nothing is known of the stream that comes."""
        self._decoder: LiveDecoder | None = None
        self._record: bytes | None = None
        self._sound: bytes | None = None  # its configuration
        self._sounds = False
        self._pending: dict[int, tuple[Arrived, bool]] = {}  # frames that are being decoded, and whether they are old
        self._damaged = 0
        self._deinterlaces = False
        self._old_until = 0.0  # pictures that come without a wait before this are old
        self._is_new = True  # nothing came yet, or not since a pause
        self._told: dict[str, Any] | None = None  # of the source

    def _connection(self) -> AwayError:
        """Reads until the source goes away; why it did."""
        self._begin()
        self._timeline.restart()
        self._old_until = float("inf")
        try:
            with closing(self._open_source()) as source:
                self._read(source)
        except AwayError as away:
            return away
        except UnreadableError as error:
            return AwayError("unreadable", error.problem, final=self._options.realtime)
        return AwayError("ended", "nothing more is wanted")

    def _read(self, source: Source) -> None:
        reader, chunks = flv.Reader(), source.chunks()
        while not self._stopped.is_set():
            started = time.monotonic()
            chunk = next(chunks)
            self._judge(time.monotonic() - started)
            for tag in reader.feed(chunk):
                self._take(tag)

    def _judge(self, waited: float) -> None:
        """Notes a pause, or that nothing old is left: what was just read had to be waited for."""
        if waited >= LIVE_SECONDS and self._decoder:
            self._old_until = 0.0
        if waited >= PAUSE_SECONDS:
            self._is_new = True

    @property
    def _is_old(self) -> bool:
        return time.monotonic() < self._old_until

    def _take(self, tag: flv.Tag) -> None:
        if tag.kind is flv.TagKind.SCRIPT:
            return
        self._heard = time.monotonic()
        if self._is_new:
            self._recognise(tag)
        if tag.kind is flv.TagKind.VIDEO:
            self._take_video(tag.timestamp, flv.parse_video(tag.payload))
        else:
            self._take_sound(tag)

    def _recognise(self, tag: flv.Tag) -> None:
        """After a pause: the stream goes on, or it is another one, or the same with all that was held up."""
        self._is_new = False
        self._tell(message("incoming"))
        if self._decoder and not self._timeline.fits(tag.timestamp):
            self._timeline.restart()
            self._old_until = time.monotonic() + BURST_SECONDS

    def _take_sound(self, tag: flv.Tag) -> None:
        sound, self._sounds = flv.parse_audio(tag.payload), True
        if sound.configures:
            self._sound = tag.payload
        elif not self._is_old and self._decoder:
            self._outbox.put(Sound(tag.payload, self._sound, self._timeline.place(tag.timestamp)))

    def _take_video(self, stamp: int, video: flv.VideoPayload) -> None:
        if video.configures:
            if video.data != self._record:
                self._pass_on(self._flushed(), 0.0)
                self._record, self._decoder = video.data, None
        elif video.data and (self._decoder or (video.keyframe and self._record)):
            self._decode(self._decoder or self._opened(video), stamp, video)

    def _opened(self, video: flv.VideoPayload) -> LiveDecoder:
        """The decoder of what starts with this keyframe."""
        assert self._record
        self._begun()
        self._decoder = LiveDecoder(self._record, video.delay_ms != 0, self._limits)
        if self._old_until == float("inf"):
            self._old_until = time.monotonic() + BURST_SECONDS
        return self._decoder

    def _decode(self, decoder: LiveDecoder, stamp: int, video: flv.VideoPayload) -> None:
        number, old = self._number, self._is_old
        pts_ms = 0 if old else self._timeline.place(stamp) + video.delay_ms
        self._number += 1
        self._ledger.came()
        self._pending[number] = Arrived(Header(number, 0, 1000 * pts_ms), time.monotonic()), old
        started = time.perf_counter()
        try:
            pictures = decoder.decode(number, video.data)
        except UnreadableError:
            self._damage(number)
            return
        self._damaged, self._deinterlaces = 0, decoder.deinterlaces
        self.fps = decoder.fps or USUAL_FPS
        self._pass_on(pictures, time.perf_counter() - started)
        self._give_up_before(number - REORDERED_FRAMES)

    def _damage(self, number: int) -> None:
        del self._pending[number]
        self._ledger.dropped("unreadable")
        self._damaged += 1
        if self._damaged > PATIENCE_FRAMES:
            raise UnreadableError(f"{PATIENCE_FRAMES} pictures in a row are damaged")

    def _flushed(self) -> list[tuple[int, Picture]]:
        """The pictures that the decoder holds back; it is done with."""
        decoder, self._decoder = self._decoder, None
        try:
            return decoder.flush() if decoder else []
        except UnreadableError:
            return []

    def _pass_on(self, pictures: list[tuple[int, Picture]], seconds: float) -> None:
        for number, picture in pictures:
            if number not in self._pending:  # damaged, as was said, and still shown
                continue
            frame, old = self._pending.pop(number)
            self._tell_of(picture.shape)
            if old:
                self._ledger.dropped("burst")
            elif self._inbox.put(Waiting(frame, picture, seconds)):
                self._ledger.dropped("queue_full")
                self._strain.lost()

    def _give_up_before(self, number: int) -> None:
        for early in [early for early in self._pending if early < number]:
            del self._pending[early]
            self._ledger.dropped("unreadable")

    def _tell_of(self, shape: Shape) -> None:
        size = {"width": shape.width, "height": shape.height, "fps": round(self.fps, 2)}
        words = message("source", **size, codec="h264", audio=self._sounds, deinterlaced=self._deinterlaces)
        if words != self._told:
            self._told = words
            self._tell(words)
