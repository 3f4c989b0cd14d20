"""Live frames through the real service: formats, order, back-pressure, and what is told beside them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from fourfold_client import AsyncClient, Client, Dropped, InputFrame, Ready, Reconnecting, Statistics, UpscaledFrame
from server.media.live_formats import Format
from tests.support.clips import gradient, write
from tests.support.live import H264Decoder, H264Encoder, decode, encode, plain, psnr
from tests.support.service import RunningService

CLIP_FRAMES = 1800
"""Of the long clip: a minute; they come as fast as they are taken."""

FORMATS: list[Format] = ["jpeg", "png", "rgb24", "yuv420p"]


def grey(number: int) -> int:
    return 60 + 3 * number


def sent(name: Format, count: int) -> Iterator[bytes]:
    for number in range(count):
        yield encode(name, plain(grey(number)))


def check(name: Format, answers: list[UpscaledFrame]) -> None:
    """Every answer shows what was sent under its number."""
    for answer in answers:
        assert (answer.width, answer.height, answer.format) == (64, 48, name)
        assert psnr(decode(name, answer.data, 64, 48), plain(grey(answer.sequence), 64, 48)) > 35


@pytest.mark.parametrize(("source", "target"), [*zip(FORMATS, FORMATS, strict=True), ("png", "h264"), ("jpeg", "rgb24")])
def test_formats(service: RunningService, source: Format, target: Format) -> None:
    options: dict[str, Any] = {"width": 32, "height": 24, "model": "bicubic", "scale": 2, "late": "keep", "quality": 95}
    with Client(service.url) as client, client.stream(sent(source, 40), input=source, output=target, **options) as stream:
        answers = list(stream)
    assert [answer.sequence for answer in answers] == list(range(40))
    assert [answer.pts_us for answer in answers] == [round(number * 1e6 / 60) for number in range(40)]
    assert all(answer.server_us > 0 for answer in answers)
    if target == "h264":
        pictures = H264Decoder().decode(*(answer.data for answer in answers))
        assert [(picture.width, picture.height) for picture in pictures] == [(64, 48)] * 40
        assert answers[0].keyframe
    else:
        check(target, answers)


def test_h264_begins_with_a_keyframe(service: RunningService) -> None:
    encoder = H264Encoder(32, 24, **{"x264-params": "keyint=10:scenecut=0"})
    units = [unit for number in range(40) for unit in encoder.encode(plain(grey(number)))]
    events: list[Any] = []
    options: dict[str, Any] = {"input": "h264", "output": "rgb24", "model": "bicubic", "scale": 2, "late": "keep"}
    with Client(service.url) as client, client.stream(units[3:], on_event=events.append, **options) as stream:
        answers = list(stream)
    assert [event for event in events if isinstance(event, Dropped)] == [
        Dropped((number,), "no_keyframe") for number in range(7)
    ]
    assert [answer.sequence for answer in answers] == list(range(7, 37))
    for answer in answers:
        assert psnr(answer.array(), plain(grey(answer.sequence + 3), 64, 48)) > 35


@pytest.mark.anyio
async def test_a_long_clip_frame_by_frame_loses_none(service: RunningService, tmp_path: Path) -> None:
    """Decoded here, upscaled there; each answer is compared with its own frame."""
    clip = write(tmp_path / "clip.mp4", width=96, height=54, rate=30, frames=CLIP_FRAMES, codec="libx264")

    def frames() -> Iterator[InputFrame]:
        with av.open(str(clip)) as video:
            for number, frame in enumerate(video.decode(video=0)):
                yield InputFrame(frame.to_ndarray(), pts_us=number * 33_333)

    seen = 0
    options: dict[str, Any] = {"input": "yuv420p", "output": "yuv420p", "width": 96, "height": 54, "fps": 30}
    async with (
        AsyncClient(service.url) as client,
        client.stream(frames(), model="bicubic", scale=2, late="keep", **options) as stream,
    ):
        async for answer in stream:
            assert (answer.sequence, answer.pts_us) == (seen, seen * 33_333)
            luma = answer.array()[:108].reshape(54, 2, 96, 2).mean((1, 3))
            assert np.abs(luma - gradient(96, 54, seen)[:54]).mean() < 12  # the next frame's differs by more: see below
            seen += 1
    assert seen == CLIP_FRAMES
    assert np.abs(gradient(96, 54, 0)[:54].astype(int) - gradient(96, 54, 4)[:54]).mean() > 20


@pytest.mark.anyio
async def test_a_slow_consumer_holds_back_the_source_and_is_not_cut_off(service: RunningService) -> None:
    """The service cuts off who does not read for a second; the client reads, and takes no more frames than it may."""
    events: list[Any] = []
    taken, given = 0, 0

    async def frames() -> AsyncIterator[np.ndarray]:
        nonlocal taken
        for number in range(30):
            taken += 1
            assert taken - given <= 4
            yield np.full((270, 480, 3), number, np.uint8)

    options: dict[str, Any] = {"input": "rgb24", "output": "rgb24", "width": 480, "height": 270, "model": "bicubic"}
    async with (
        AsyncClient(service.url) as client,
        client.stream(frames(), late="keep", in_flight=4, on_event=events.append, **options) as stream,
    ):
        async for answer in stream:
            given += 1
            if answer.sequence in (0, 10):
                await asyncio.sleep(2.5)  # more than the service's patience
    assert (given, taken) == (30, 30)
    assert [event for event in events if isinstance(event, Reconnecting)] == []


def test_what_is_told_beside_the_answers(service: RunningService) -> None:
    events: list[Any] = []
    options: dict[str, Any] = {"input": "rgb24", "output": "rgb24", "width": 32, "height": 24, "model": "bicubic"}

    def frames() -> Iterator[bytes]:
        while not any(isinstance(event, Statistics) and event.fps_out > 0 for event in events):
            yield plain(7).tobytes()

    with Client(service.url) as client, client.stream(frames(), late="keep", on_event=events.append, **options) as stream:
        answers = list(stream)
    assert answers[0].array().shape == (96, 128, 3)
    ready = next(event for event in events if isinstance(event, Ready))
    assert (ready.model, ready.format, ready.width, ready.height) == ("bicubic", "rgb24", 128, 96)
    assert ready.session and ready.engine and ready.precision
    statistics = [event for event in events if isinstance(event, Statistics)][-1]
    assert (statistics.model, set(statistics.latency_ms)) == ("bicubic", {"p50", "p95", "p99"})


def test_with_drop_every_frame_is_answered_or_reported(service: RunningService) -> None:
    events: list[Any] = []
    with (
        Client(service.url) as client,
        client.stream(sent("jpeg", 60), model="xlsr", late="drop", fps=5, on_event=events.append) as stream,
    ):
        answered = [answer.sequence for answer in stream]
    dropped = [number for event in events if isinstance(event, Dropped) for number in event.sequences]
    assert dropped  # they came faster than was agreed
    assert answered == sorted(answered)
    assert sorted(answered + dropped) == list(range(60))


def test_what_the_source_raises_comes_out(service: RunningService) -> None:
    def frames() -> Iterator[bytes]:
        yield encode("jpeg", plain(9))
        raise OSError("the camera is gone")

    with Client(service.url) as client, pytest.raises(OSError, match="camera"):
        list(client.stream(frames(), model="bicubic", late="keep"))


@pytest.mark.timeout(60)
def test_a_source_that_cannot_begin_is_told(service: RunningService) -> None:
    class Camera:
        def __iter__(self) -> Iterator[bytes]:
            raise OSError("there is no camera")

    with Client(service.url) as client, pytest.raises(OSError, match="no camera"):
        list(client.stream(Camera(), model="bicubic"))


@pytest.mark.anyio
async def test_who_leaves_early_leaves_nothing_behind(service: RunningService) -> None:
    def sessions() -> float:
        return service.metrics()['fourfold_streams_active{kind="websocket"}']

    ended = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        try:
            while True:
                yield encode("jpeg", plain(9))
        finally:
            ended.set()

    async with AsyncClient(service.url) as client:
        async with client.stream(frames(), model="bicubic", late="keep") as stream:
            async for answer in stream:
                if answer.sequence == 5:
                    break
        async with client.stream([]) as empty:
            assert [answer async for answer in empty] == []
        left = client.stream(frames(), model="bicubic")
        assert (await anext(left)).sequence == 0
    with pytest.raises(StopAsyncIteration):  # the client's end was its own
        while True:
            await anext(left)
    async with asyncio.timeout(60):
        while await asyncio.to_thread(sessions):
            await asyncio.sleep(0.05)
