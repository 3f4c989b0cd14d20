"""The way out: upscaled pictures are compressed and sent, in order, with word of whatever else a client must know.

Knows nothing of how frames come in.
"""

import time

from engines.runner import DeviceMemoryError, InferenceError, LateError, Plane
from server.media.live_input import announced_shape
from server.media.live_output import LiveOutput, Wanted, open_output, size_of
from server.media.live_picture import Shape
from server.streams._ladder import ENGINE_GONE
from server.streams._live_frames import Broken, Dropped, End, Failed, Outbox, Planned, Retired, Upscaling
from server.streams._live_upscaled import Upscaled, stages_of
from server.streams._rungs import Rung
from server.streams._strain import Strain
from server.streams.protocol import END, KEYFRAME, STAGES, Header, LiveOptions, dropped, failed, ready
from server.streams.wire import Channel


class Delivery:
    """Tells the client of everything in the outbox. `run` belongs to one thread."""

    def __init__(self, channel: Channel, options: LiveOptions, outbox: Outbox, strain: Strain) -> None:
        """Args:
        channel: where messages go.
        options: of the session.
        outbox: where they come from.
        strain: to be told what is answered, and what is not.
        """
        self._channel, self._outbox, self._options, self._strain = channel, outbox, options, strain
        start = options.start
        self._wanted = Wanted(start.output.format, start.output.quality, start.fps)
        self._droppable = start.late == "drop"
        self._model = options.model  # that the client knows of
        self._output: LiveOutput | None = None
        self._upscaled = Upscaled(start.scale, self._droppable, strain)

    def run(self) -> None:
        """Works until the session ends.

        Raises:
            Closed: the client left.
            Exception: what broke the session.
        """
        words = self._options.start.input
        if announced_shape(words.format, words.width, words.height) is None:  # else a rung is looked for, and then told
            self._channel.send_json(ready(self._model, None, None, self._wanted.format, None))
        while True:
            match item := self._outbox.get():
                case Upscaling():
                    self._finish(item)
                case Planned():
                    self._plan(item.shape, item.rung)
                case Retired():
                    item.rung.close()
                case Dropped():
                    self._channel.send_json(dropped(item.sequences, item.reason))
                case Failed():
                    self._channel.send_json(failed(item.code, item.message, item.sequence))
                case End():
                    header = Header(item.header.sequence, END, item.header.pts_us)
                    return self._channel.send_frame(STAGES.pack(0, 0, 0, 0), header.pack())
                case Broken():
                    raise item.error

    def _plan(self, shape: Shape, rung: Rung) -> None:
        height, width = rung.pool.slots[0].outputs[0].shape[:2]
        size = size_of(self._wanted.format, width, height)
        self._output = open_output(self._wanted, shape, width, height)
        self._upscaled.plan(shape)
        self._model = self._options.model
        self._channel.send_json(ready(rung.model, rung.engine, rung.precision, self._wanted.format, size))

    def _finish(self, item: Upscaling) -> None:
        """Answers a frame, or says why not."""
        try:
            picture, model, seconds = self._upscaled.wait_for(item)
            if self._droppable and time.monotonic() > item.deadline and self._outbox.has_picture():
                self._channel.send_json(dropped([item.frame.sequence], "late"))
            else:
                self._answer(item, picture, model, seconds)
                self._strain.made()
        except LateError:
            self._channel.send_json(dropped([item.frame.sequence], "late"))
            self._strain.lost(by_engine=True)
        except DeviceMemoryError:
            words = "the engine has no memory left for this frame"
            self._channel.send_json(failed("gpu_oom", words, item.frame.sequence))
        except InferenceError:
            self._channel.send_json(failed("internal", "the engine could not compute this frame", item.frame.sequence))
        finally:
            item.rung.pool.release(item.slot)

    def _answer(self, item: Upscaling, picture: Plane, model: str, seconds: float) -> None:
        assert self._output
        switched = self._tell_model(model, item.rung.reason if model == item.rung.model else ENGINE_GONE)
        started = time.perf_counter()
        payload, keyframe = self._output.encode(picture, switched)
        encode_seconds = time.perf_counter() - started
        stages = (*stages_of(item, seconds), encode_seconds)
        header = Header(item.frame.sequence, KEYFRAME if keyframe else 0, item.frame.header.pts_us)
        self._channel.send_frame(STAGES.pack(*stages), header.pack(), payload)

    def _tell_model(self, model: str, reason: str) -> bool:
        """Tells the client of a model that it does not know of yet; whether it is another."""
        if model == self._model:
            return False
        self._model = model
        self._channel.send_json({"type": "model", "model": model, "reason": reason})
        return True
