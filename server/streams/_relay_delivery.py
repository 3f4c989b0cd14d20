"""A relay's way out: upscaled pictures are encoded and go to the egress, with sound; and when none come, the last one again.

Knows nothing of how frames come in.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engines.runner import DeviceMemoryError, InferenceError, LateError, Plane
from server.media.live_encoder import Encoded, LiveEncoder, LiveVideo
from server.media.live_output import size_of
from server.media.live_picture import Shape
from server.streams._egress import About, Egress, SoundTag, VideoTag
from server.streams._ladder import ENGINE_GONE
from server.streams._live_frames import Broken, Dropped, End, Failed, Outbox, Planned, Retired, Sound, Upscaling
from server.streams._live_upscaled import Upscaled, stages_of
from server.streams._relay_ledger import Ledger
from server.streams._rungs import SWSCALE, Rung
from server.streams._strain import Strain
from server.streams.relay_protocol import RelayOptions, RelayState, message

HOLD_SECONDS = 0.5
"""Without a picture, after which the last one is shown again."""

NUDGE_MS = 50
"""A picture whose stamp is at most so much behind the one before gets the next moment; what is older is dropped."""


@dataclass(frozen=True)
class _Shown:
    """The latest picture that viewers see."""

    pts_ms: int
    at: float  # time.monotonic()


class RelayDelivery:
    """Sends what is in the outbox. `run` belongs to one thread."""

    def __init__(
        self,
        options: RelayOptions,
        fps: Callable[[], float],
        outbox: Outbox,
        strain: Strain,
        egress: Egress,
        ledger: Ledger,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        """Args:
        options: of the relay.
        fps: of its pictures, as far as that is known.
        outbox: where frames come from.
        strain: to be told what is sent, and what is not.
        egress: where they go.
        ledger: to be told what became of every frame.
        tell: takes messages to the api process.
        """
        self._options, self._fps, self._outbox, self._strain = options, fps, outbox, strain
        self._egress, self._ledger, self._tell = egress, ledger, tell
        self._upscaled = Upscaled(options.scale, True, strain)
        self._model = options.model  # that was told
        self._state: RelayState = "starting"
        self._encoder: LiveEncoder | None = None
        self._planned: LiveVideo | None = None
        self._about: About | None = None
        self._shown: _Shown | None = None

    def run(self) -> None:
        """Works until the relay ends.

        Raises:
            Closed: nobody wants it any more.
            Exception: what broke it.
        """
        while True:
            try:
                item = self._outbox.get(self._patience())
            except TimeoutError:
                self._hold()
                continue
            match item:
                case Upscaling():
                    self._finish(item)
                case Sound():
                    self._egress.put(SoundTag(item.pts_ms, item.payload, item.configuration))
                case Planned():
                    self._plan(item.shape, item.rung)
                case Retired():
                    item.rung.close()
                case Dropped():
                    self._ledger.dropped(item.reason, len(item.sequences))
                case Failed():
                    self._ledger.failed()
                case End():
                    return
                case Broken():
                    raise item.error
            if self._patience() == 0.0:
                self._hold()

    def _patience(self) -> float | None:
        """Seconds until the last picture is due again; None: there is none."""
        if not (self._shown and self._encoder and self._encoder.has_picture):
            return None
        wait = 1 / self._fps() if self._state == "holding" else HOLD_SECONDS
        return max(0.0, self._shown.at + wait - time.monotonic())

    def _hold(self) -> None:
        """Shows the last picture once more, as much later as it is."""
        assert self._shown and self._encoder
        self._enter("holding", "no picture comes")
        now = time.monotonic()
        pts_ms = self._shown.pts_ms + round(1000 * (now - self._shown.at))
        self._shown = _Shown(pts_ms, now)
        if self._egress.connected:
            encoded = self._encoder.repeat(pts_ms, self._egress.wants_keyframe)
            self._put(pts_ms, encoded, self._ledger.held)

    def _plan(self, shape: Shape, rung: Rung) -> None:
        height, width = rung.pool.slots[0].outputs[0].shape[:2]
        width, height = size_of("h264", width, height)
        assert shape.tags
        options, fps = self._options, self._fps()
        video = LiveVideo(width, height, fps, shape.tags, options.encoder, options.bitrate, options.keyframe_seconds)
        if video != self._planned:
            self._encoder, self._planned = LiveEncoder(video), video
        assert self._encoder
        self._upscaled.plan(shape)
        self._about = About(width, height, fps)
        engine = {"engine": rung.engine, "precision": rung.precision}
        self._tell(message("output", width=width, height=height, encoder=self._encoder.name, **engine))

    def _finish(self, item: Upscaling) -> None:
        """Sends a frame, or says what became of it."""
        try:
            picture, model, seconds = self._upscaled.wait_for(item)
            self._tell_model(model, item.rung)
            if time.monotonic() > item.deadline and self._outbox.has_picture():
                self._ledger.dropped("late")
            else:
                self._show(item, picture, seconds)
                self._strain.made()
        except LateError:
            self._ledger.dropped("late")
            self._strain.lost(by_engine=True)
        except (DeviceMemoryError, InferenceError):
            self._ledger.failed()
        finally:
            item.rung.pool.release(item.slot)

    def _show(self, item: Upscaling, picture: Plane, seconds: float) -> None:
        pts_ms = self._moment(item.frame.header.pts_us // 1000)
        if pts_ms is None:
            self._ledger.dropped("stale")
            return
        started = time.monotonic()
        self._shown = _Shown(pts_ms, started)
        self._enter("running", None)
        if self._egress.connected:
            self._send(item, picture, pts_ms, seconds)
        else:
            assert self._encoder
            self._encoder.keep(picture)
            self._ledger.dropped("target")

    def _send(self, item: Upscaling, picture: Plane, pts_ms: int, seconds: float) -> None:
        assert self._encoder
        started = time.monotonic()
        encoded = self._encoder.encode(picture, pts_ms, self._egress.wants_keyframe)
        encoded_at = time.monotonic()
        stages = (*stages_of(item, seconds), encoded_at - started)

        def sent() -> None:
            now = time.monotonic()
            self._ledger.delivered((now - item.frame.at, *stages, now - encoded_at))

        self._put(pts_ms, encoded, sent, lambda: self._ledger.dropped("target"))

    def _put(self, pts_ms: int, encoded: Encoded, sent: Callable[[], None], lost: Callable[[], None] = lambda: None) -> None:
        assert self._encoder and self._about
        tag = VideoTag(pts_ms, encoded.keyframe, encoded.data, self._encoder.configuration, self._about, sent, lost)
        self._egress.put(tag)

    def _moment(self, pts_ms: int) -> int | None:
        """When viewers see a picture: never before what they have seen. None: that moment is over, and they saw a newer one."""
        after = 0 if self._shown is None else self._shown.pts_ms + 1
        return max(pts_ms, after) if self._state == "holding" or pts_ms > after - NUDGE_MS else None

    def _tell_model(self, model: str, rung: Rung) -> None:
        """Args: model: that made a picture: the rung's, or interpolation in its place."""
        if model != self._model:
            self._model = model
            reason, engine, precision = ENGINE_GONE, *SWSCALE
            if model == rung.model:
                reason, engine, precision = rung.reason, rung.engine, rung.precision
            self._tell(message("model", model=model, reason=reason, engine=engine, precision=precision))

    def _enter(self, state: RelayState, reason: str | None) -> None:
        if state != self._state:
            self._state = state
            self._tell(message("state", state=state, reason=reason))
