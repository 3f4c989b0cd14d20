"""The two ends of a live stream that is measured, each a process: `python -m server.bench.live_clip publish|play URL`.

The publisher burns number and time into each picture (`server.bench.burn`), and with each 60th one a beep begins. The player
reads them back. Both run until SIGTERM and then print one JSON object.
"""

import json
import signal
import sys
import time
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from server.bench.burn import COLUMNS, ROWS, burn, mark, read

WIDTH, HEIGHT, RATE = 480, 270, 30
BIT_RATE = 800_000
SOUND_RATE, SOUND_FRAME = 48_000, 1024
BEEP_EVERY, BEEP_SECONDS = 60, 0.1  # pictures
LOUD = 0.1  # where a beep's loudness is 0.5
OPEN_SECONDS, READ_SECONDS = 180.0, 15.0
PROBE_BYTES = 1 << 20  # that a player may read until it knows the streams: sound may come some pictures later


class Publisher:
    """Encodes and sends in real time, as OBS does with "zerolatency"."""

    def __init__(self, url: str) -> None:
        self.sent: list[list[float]] = []  # [number, time.monotonic]
        self._output = av.open(url, "w", format="flv", options={"flvflags": "no_duration_filesize", "flush_packets": "1"})
        options = {"preset": "veryfast", "tune": "zerolatency", "profile": "baseline", "g": str(2 * RATE)}
        limits = {"maxrate": str(BIT_RATE), "bufsize": str(BIT_RATE // 2)}
        self._video: Any = self._output.add_stream("libx264", rate=RATE, options=options | limits)
        self._video.width, self._video.height, self._video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        self._video.codec_context.bit_rate = BIT_RATE
        self._sound: Any = self._output.add_stream("aac", rate=SOUND_RATE)
        self._samples = 0
        self._texture = _texture()

    def run(self, going: "Going") -> None:
        started, number = time.monotonic(), 0
        while going:
            # The muxer keeps a picture back until it has later sound: that must be there already.
            self._send_sound_until((number + 2) / RATE)
            time.sleep(max(0.0, started + number / RATE - time.monotonic()))
            self._send_picture(number)
            number += 1

    def _send_picture(self, number: int) -> None:
        shift = number % HEIGHT
        planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        planes[:HEIGHT] = self._texture[shift : shift + HEIGHT]
        now = time.monotonic()
        burn(planes[:HEIGHT], mark(number, now))
        frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, RATE)
        self._output.mux(self._video.encode(frame))
        self.sent.append([number, now])

    def _send_sound_until(self, seconds: float) -> None:
        while self._samples < seconds * SOUND_RATE:
            at = np.arange(self._samples, self._samples + SOUND_FRAME) / SOUND_RATE
            on = at % (BEEP_EVERY / RATE) < BEEP_SECONDS
            samples = np.tile((0.5 * on * np.sin(2 * np.pi * 1000 * at)).astype(np.float32), (2, 1))
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, self._samples, Fraction(1, SOUND_RATE)
            self._output.mux(self._sound.encode(frame))
            self._samples += SOUND_FRAME


def _texture() -> npt.NDArray[np.uint8]:
    """Smooth noise, twice as high as a picture: what is shown moves down it. [2 * HEIGHT, WIDTH]"""
    coarse = np.random.default_rng(1).integers(40, 216, (2 * HEIGHT // 18 + 1, WIDTH // 16 + 1))
    rows, columns = np.arange(2 * HEIGHT) / 18, np.arange(WIDTH) / 16
    across = np.stack([np.interp(columns, np.arange(coarse.shape[1]), row) for row in coarse])
    fine = np.stack([np.interp(rows, np.arange(len(across)), column) for column in across.T], axis=1)
    return fine.astype(np.uint8)


class Player:
    """Decodes as little as it can: no loop filter, no thread that keeps pictures back; and looks at the top of each alone."""

    def __init__(self) -> None:
        self.pictures: list[list[float]] = []  # [number, seconds old when decoded, pts in s, time.monotonic]
        self.beeps: list[float] = []  # pts in s of their first sample
        self.decode_ms: list[float] = []
        self.unread = 0
        self.size = [0, 0]
        self._loud_at = -1.0

    def run(self, url: str, going: "Going") -> None:
        options = {"fflags": "nobuffer", "probesize": str(PROBE_BYTES), "analyzeduration": "0"}
        with av.open(url, timeout=(OPEN_SECONDS, READ_SECONDS), options=options) as source:
            video = source.streams.video[0]
            video.thread_type = "NONE"
            video.codec_context.options = {"flags": "low_delay", "skip_loop_filter": "all"}
            for packet in source.demux():
                if not going:
                    return
                self._take(packet)

    def _take(self, packet: Any) -> None:
        began = time.monotonic()
        frames = packet.decode()
        if packet.stream.type == "audio":
            for frame in frames:
                self._listen(frame)
            return
        for frame in frames:
            self._look(frame)
            self.decode_ms.append(1000 * (time.monotonic() - began))

    def _look(self, frame: Any) -> None:
        plane, side = frame.planes[0], frame.width // COLUMNS
        luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: ROWS * side, : frame.width]
        found, now = read(luma), time.monotonic()
        if found is None:
            self.unread += 1
            return
        if not self.pictures:
            print("plays", flush=True)
        self.size = [frame.width, frame.height]
        self.pictures.append([found.number, found.age_seconds(now), float(frame.pts * frame.time_base), now])

    def _listen(self, frame: Any) -> None:
        loud = np.flatnonzero(np.abs(frame.to_ndarray()[0]) > LOUD)
        at = float(frame.pts * frame.time_base)
        for sample in loud[:1]:
            begins = at + sample / frame.sample_rate
            if begins - self._loud_at > 2 * BEEP_SECONDS:
                self.beeps.append(begins)
        if len(loud):
            self._loud_at = at + loud[-1] / frame.sample_rate


class Going:
    """True until SIGTERM."""

    def __init__(self) -> None:
        self._going = True
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self._going = False

    def __bool__(self) -> bool:
        return self._going


def main() -> None:
    role, url = sys.argv[1:]
    going, result, error = Going(), dict[str, Any](), None
    if role == "publish":
        publisher = Publisher(url)
        try:
            publisher.run(going)
        except (av.error.FFmpegError, OSError) as broken:
            error = str(broken)
        result = {"sent": publisher.sent}
    else:
        player = Player()
        try:
            player.run(url, going)
        except (av.error.FFmpegError, OSError) as broken:
            error = str(broken)
        names = ("pictures", "beeps", "decode_ms", "unread", "size")
        result = {name: getattr(player, name) for name in names}
    print(json.dumps(result | {"error": error, "cpu_seconds": time.process_time()}), flush=True)


if __name__ == "__main__":
    main()
