"""Streams outlive the service: its restart, its death, and a time without it."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fourfold_client import Client, ConnectionLostError, Dropped, Reconnecting
from tests.support.live import H264Decoder, H264Encoder, encode, plain, psnr
from tests.support.service import running_service

COUNT = 80
CUT = 40  # the frame before which the service ends


class Phoenix:
    """A service that can be ended and comes back at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, ExitStack()
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._port = server.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._returns: threading.Thread | None = None
        self._start()

    def end(self, how: signal.Signals) -> None:
        """Ends it. By SIGTERM it first answers what it has taken, and sends its clients away."""
        self._service.process.send_signal(how)
        self._service.process.wait(60)

    def restart(self, how: signal.Signals) -> None:
        """Ends it; another one is started, but not waited for."""
        self.end(how)
        self._returns = threading.Thread(target=self._start)
        self._returns.start()

    def close(self) -> None:
        if self._returns:
            self._returns.join(120)
        self._stack.close()

    def _start(self) -> None:
        self._service = self._stack.enter_context(running_service(self._folder, port=self._port))


@pytest.fixture
def phoenix(tmp_path: Path) -> Iterator[Phoenix]:
    phoenix = Phoenix(tmp_path)
    yield phoenix
    phoenix.close()


def grey(number: int) -> int:
    return 60 + number


def interrupted(frames: list[bytes], end: Callable[[], None]) -> Iterator[bytes]:
    """The frame that comes after the end cannot be answered before the return."""
    for number, frame in enumerate(frames):
        if number == CUT:
            end()
        yield frame


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_keep_loses_nothing_and_repeats_nothing(phoenix: Phoenix, how: signal.Signals) -> None:
    events: list[Any] = []
    frames = [encode("png", plain(grey(number))) for number in range(COUNT)]
    options: dict[str, Any] = {"input": "png", "output": "rgb24", "model": "bicubic", "scale": 2, "late": "keep"}
    source = interrupted(frames, lambda: phoenix.restart(how))
    with Client(phoenix.url) as client, client.stream(source, on_event=events.append, **options) as stream:
        answers = list(stream)
    assert [answer.sequence for answer in answers] == list(range(COUNT))
    assert min(psnr(answer.array(), plain(grey(answer.sequence), 64, 48)) for answer in answers) > 35
    assert any(isinstance(event, Reconnecting) for event in events)
    assert not any(isinstance(event, Dropped) for event in events)


def test_drop_reports_what_is_lost_and_goes_on(phoenix: Phoenix) -> None:
    events: list[Any] = []
    frames = [encode("png", plain(grey(number))) for number in range(COUNT)]
    source = interrupted(frames, lambda: phoenix.restart(signal.SIGKILL))
    options: dict[str, Any] = {"input": "png", "model": "bicubic", "fps": 240}
    with Client(phoenix.url) as client, client.stream(source, on_event=events.append, **options) as stream:
        answered = [answer.sequence for answer in stream]
    lost = {event.reason: event.sequences for event in events if isinstance(event, Dropped)}
    dropped = [number for event in events if isinstance(event, Dropped) for number in event.sequences]
    assert CUT in lost["connection"]
    assert sorted(answered + dropped) == list(range(COUNT))
    assert answered == sorted(answered)
    assert any(number > CUT for number in answered)


@pytest.mark.parametrize("output", ["rgb24", "h264"])
def test_h264_goes_on_from_the_last_keyframe(phoenix: Phoenix, output: Any) -> None:
    """Frames that were answered are sent again where others build on them; they are answered once to who looks at pictures."""
    encoder = H264Encoder(32, 24, **{"x264-params": "keyint=25:scenecut=0"})
    units = [unit for number in range(COUNT) for unit in encoder.encode(plain(grey(number)))]
    source = interrupted(units, lambda: phoenix.restart(signal.SIGKILL))
    options: dict[str, Any] = {"input": "h264", "output": output, "model": "bicubic", "scale": 2, "late": "keep"}
    with Client(phoenix.url) as client, client.stream(source, **options) as stream:
        answers = list(stream)
    assert [answer.sequence for answer in answers if not answer.repeated] == list(range(COUNT))
    if output == "h264":
        pictures = [
            picture.to_ndarray(format="rgb24") for picture in H264Decoder().decode(*(answer.data for answer in answers))
        ]
    else:
        assert not any(answer.repeated for answer in answers)
        pictures = [answer.array() for answer in answers]
    assert len(pictures) == len(answers)
    for answer, picture in zip(answers, pictures, strict=True):
        assert psnr(picture, plain(grey(answer.sequence), 64, 48)) > 35


def test_a_service_that_does_not_come_back(phoenix: Phoenix) -> None:
    frames = [encode("png", plain(grey(number))) for number in range(COUNT)]
    source = interrupted(frames, lambda: phoenix.end(signal.SIGKILL))
    answered: list[int] = []
    options: dict[str, Any] = {"input": "png", "model": "bicubic", "late": "keep", "reconnect_seconds": 1}
    with Client(phoenix.url) as client, client.stream(source, **options) as stream:
        with pytest.raises(ConnectionLostError, match=r"no answer for 1 s.*is it running"):
            answered.extend(answer.sequence for answer in stream)
        with pytest.raises(ConnectionLostError):
            next(stream)
    assert answered == list(range(CUT))[: len(answered)]
