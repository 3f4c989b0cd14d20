"""A live session's worker: formats, order, drops, damage, and an engine that comes and goes."""

import struct
import threading
import time
import zlib
from itertools import count

import numpy as np
import pytest

from server.media.live_formats import Format
from server.streams import _ladder, _live_upscaled, _strain
from server.streams.protocol import END, KEYFRAME
from tests.support.fake_engine import FakeHost
from tests.support.frames import natural
from tests.support.live import (
    H264Decoder,
    H264Encoder,
    Rgb,
    Session,
    decode,
    encode,
    options,
    plain,
    psnr,
    rgb_of,
    session,
)

FORMATS: tuple[Format, ...] = ("jpeg", "png", "rgb24", "yuv420p", "h264")
EXACT = ("png", "rgb24")


def grey(running: Session, number: int = -1) -> int:
    """The middle pixel of an answer in rgb24, 64x48."""
    return running.answers[number].payload[3 * (24 * 64 + 32)]


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_every_format_becomes_every_other_with_the_right_pixels(source: Format, target: Format) -> None:
    rgb = natural(48, 64)
    rgb = np.ascontiguousarray(np.repeat(np.repeat(rgb[::4, ::4], 4, 0), 4, 1))  # so flat that chroma survives
    unit = H264Encoder(64, 48).encode(rgb)[0] if source == "h264" else encode(source, rgb)
    with session(FakeHost(mark=0), options(source, target, 64, 48)) as running:
        running.send(7, unit, pts_us=-123)
        answer = running.answer()
        running.finish(8)
    assert (answer.header.sequence, answer.header.pts_us, answer.header.flags) == (7, -123, KEYFRAME)
    picture, expected = decode(target, answer.payload, 128, 96), np.repeat(np.repeat(rgb, 2, 0), 2, 1)
    if source in EXACT and target in EXACT:
        assert (picture == expected).all()
    assert psnr(picture, expected) > 34
    assert np.abs((picture.astype(float) - expected).mean((0, 1))).max() < 1  # no colour is shifted


@pytest.mark.parametrize("target", FORMATS)
def test_frames_of_odd_size_lose_a_pixel_at_most(target: Format) -> None:
    rgb = natural(37, 51)
    with session(FakeHost(mark=0), options("rgb24", target, 51, 37, scale=3)) as running:
        running.send(0, rgb.tobytes())
        answer = running.answer()
        output = running.events[0]["output"]
        running.finish(1)
    picture = decode(target, answer.payload, output["width"], output["height"])
    assert picture.shape == (output["height"], output["width"], 3)
    even = target in ("h264", "yuv420p")
    assert (output["width"], output["height"]) == ((152, 110) if even else (153, 111))


@pytest.mark.parametrize("source", FORMATS)
def test_a_client_is_told_that_frames_can_come_before_it_sends_one(source: Format) -> None:
    with session(FakeHost(), options(source, "jpeg", 64, 48)) as running:
        assert running.event("ready")["model"] == "xlsr"


@pytest.mark.parametrize("source", ["jpeg", "png", "h264"])
def test_formats_that_say_their_size_need_not_be_announced(source: Format) -> None:
    with session(FakeHost(), options(source, "jpeg")) as running:
        assert running.event("ready")["output"] == {"format": "jpeg", "width": None, "height": None}


def test_a_thousand_frames_come_in_order_each_answered_or_reported() -> None:
    with session(FakeHost(0.001), options("jpeg", "jpeg", late="drop", fps=240, frame_queue=4)) as running:
        picture, start = encode("jpeg", plain(99)), time.monotonic()
        for number in range(1000):
            running.send(number, picture, at=start + number / 240)
        running.finish(1000)
    answered = [answer.header.sequence for answer in running.answers]
    assert answered == sorted(set(answered))
    assert sorted(answered + running.sequences("dropped")) == list(range(1001))


def test_keep_holds_the_client_back_and_loses_nothing() -> None:
    host, frame = FakeHost(0.02), plain(5, 256, 256).tobytes()
    host.going.clear()
    with session(host, options("rgb24", "rgb24", 256, 256, late="keep", frame_queue=2)) as running:
        running.channel._socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            for sent in count():
                running.send(sent, frame)
        assert sent < 12  # two wait, four are in slots, the rest is in the socket
        host.going.set()


def test_a_client_that_reads_slowly_gets_every_frame_that_it_wants_kept() -> None:
    with session(FakeHost(), options("jpeg", "jpeg", late="keep", frame_queue=2)) as running:
        for number in range(100):
            running.send(number, encode("jpeg", plain(number)))
        time.sleep(0.3)
        running.finish(100)
    assert [answer.header.sequence for answer in running.answers] == list(range(101))


def test_the_oldest_go_first_when_the_engine_is_too_slow() -> None:
    with session(FakeHost(0.05), options("rgb24", "rgb24", 32, 24, late="drop", fps=240, frame_queue=3)) as running:
        running.event("ready")
        start = time.monotonic()
        for number in range(40):
            running.send(number, plain(number).tobytes(), at=start + number / 240)
        running.finish(40)
    answered, lost = [answer.header.sequence for answer in running.answers], running.sequences("dropped")
    assert answered[-4:] == [37, 38, 39, 40]  # the newest are there
    assert sorted(answered + lost) == list(range(41))
    assert {event["reason"] for event in running.events if event["type"] == "dropped"} == {"queue_full"}


def test_late_frames_are_dropped_and_the_stream_goes_on() -> None:
    host = FakeHost()
    with session(host, options("rgb24", "rgb24", 32, 24, late="drop", fps=240, budget_seconds=0.3)) as running:
        running.event("ready")
        host.going.clear()
        for number in range(3):
            running.send(number, plain(number).tobytes())
        time.sleep(0.5)
        host.going.set()
        for number in range(3, 53):
            running.send(number, plain(number).tobytes())
            time.sleep(0.01)
        running.finish(53)
    answered, lost = [answer.header.sequence for answer in running.answers], running.sequences("dropped")
    assert sorted(answered + lost) == list(range(54))
    assert set(lost) >= {0, 1, 2}
    assert running.events[1]["reason"] == "late"
    assert len(answered) > 1


def test_ten_times_the_agreed_rate_is_not_let_in() -> None:
    with session(FakeHost(), options("rgb24", "rgb24", 32, 24, late="drop", fps=10, frame_queue=64)) as running:
        start = time.monotonic()
        for number in range(200):
            running.send(number, plain(number % 256).tobytes(), at=start + number / 100)
        running.finish(200)
    answered, lost = [answer.header.sequence for answer in running.answers], running.sequences("dropped")
    assert sorted(answered + lost) == list(range(201))
    assert 60 < len(answered) < 95  # two seconds, and what may be saved up
    assert {event["reason"] for event in running.events if event["type"] == "dropped"} == {"queue_full"}


def test_after_a_pause_in_reading_fresh_frames_come() -> None:
    """Whoever does not read gets what was on its way, and then no old frames."""
    size = 256
    with session(FakeHost(), options("rgb24", "rgb24", size, size, late="drop", fps=240, budget_seconds=60.0)) as running:
        frame = plain(1, size, size).tobytes()
        for number in range(100):
            running.send(number, frame)
            time.sleep(0.005)
        running.finish(100)
    answered, lost = [answer.header.sequence for answer in running.answers], running.sequences("dropped")
    assert sorted(answered + lost) == list(range(101))
    assert len(lost) > 50
    assert answered[-2] == 99


@pytest.mark.parametrize("source", ["jpeg", "png", "rgb24", "yuv420p"])
def test_a_damaged_frame_is_reported_and_the_next_one_answered(source: Format) -> None:
    good = encode(source, natural(24, 32))
    with session(FakeHost(), options(source, "rgb24", 32, 24)) as running:
        for number, payload in enumerate([good, good[: len(good) // 2], b"nonsense", good[:40], b"", good]):
            running.send(number, payload)
        running.finish(6)
    assert [answer.header.sequence for answer in running.answers] == [0, 5, 6]
    assert sorted(running.sequences("error")) == [1, 2, 3, 4]
    assert {event["code"] for event in running.events if event["type"] == "error"} == {"unreadable"}


def test_nothing_but_nonsense_ends_a_session() -> None:
    with session(FakeHost(), options("jpeg", "jpeg")) as running:
        for number in range(302):
            running.send(number, b"nonsense")
        while running.receive() is not None:
            pass
    assert running.events[-1]["code"] == "unreadable"
    assert "sequence" not in running.events[-1]


def png_head(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose head speaks of another size."""
    data = bytearray(encode("jpeg", plain(1)))
    head = data.index(b"\xff\xc0")
    data[head + 5 : head + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("source", "bomb"),
    [
        ("png", png_head(12000, 12000)),
        ("jpeg", jpeg_of(12000, 12000)),
        ("h264", H264Encoder(1920, 1440).encode(plain(1, 1920, 1440))[0]),
    ],
    ids=["png", "jpeg", "h264"],
)
def test_huge_pictures_in_mid_stream_end_it_before_they_take_memory(source: Format, bomb: bytes) -> None:
    good = H264Encoder(32, 24).encode(plain(1))[0] if source == "h264" else encode(source, plain(1))
    with session(FakeHost(), options(source, "jpeg")) as running:
        running.send(0, good)
        running.answer()
        running.send(1, bomb)
        while running.receive() is not None:
            pass
    assert running.events[-1]["code"] == "dimensions"
    assert "2097152" in running.events[-1]["message"]


@pytest.mark.parametrize(("width", "height"), [(8, 8), (4096, 1024)])
def test_a_size_that_is_not_upscaled_is_refused_at_once(width: int, height: int) -> None:
    with session(FakeHost(), options("rgb24", "jpeg", width, height)) as running:
        assert running.event("error")["code"] == "dimensions"
        assert running.receive() is None


@pytest.mark.parametrize("source", ["jpeg", "h264"])
def test_another_size_in_mid_stream_is_planned_anew(source: Format) -> None:
    sizes = [(32, 24)] * 3 + [(64, 48)] * 3 + [(32, 24)] * 3
    host, units = FakeHost(mark=0), list[bytes]()
    for number, (width, height) in enumerate(sizes):
        if number % 3 == 0:
            encoder = H264Encoder(width, height)
        picture = plain(10 * number + 20, width, height)
        units += encoder.encode(picture) if source == "h264" else [encode(source, picture)]
    with session(host, options(source, "h264")) as running:
        for number, unit in enumerate(units):
            running.send(number, unit, pts_us=number)
        running.finish(len(units))
    answers = running.answers[:-1]
    assert [answer.header.pts_us for answer in answers] == list(range(9))
    assert [answer.header.sequence for answer in answers if answer.header.flags & KEYFRAME] == [0, 3, 6]
    frames = H264Decoder().decode(*(answer.payload for answer in answers))
    assert [(frame.width, frame.height) for frame in frames] == [(2 * width, 2 * height) for width, height in sizes]
    for number, frame in enumerate(frames):
        assert np.abs(rgb_of(frame).astype(int) - (10 * number + 20)).max() < 6  # nothing of the size before
    assert [event["output"]["width"] for event in running.events if event["type"] == "ready"] == [None, 64, 128, 64]
    assert [engine.closed for engine in host.engines[:2]] == [True, True]


def moving(number: int, width: int = 64, height: int = 48) -> Rgb:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 128 + 60 * np.sin((columns + 2 * number) / 7) + 40 * np.cos(rows / 5)
    return np.repeat(np.rint(waves).astype(np.uint8)[..., None], 3, axis=2)


def test_h264_in_h264_out_plays() -> None:
    encoder, pictures = H264Encoder(64, 48), [moving(number) for number in range(130)]
    units = [unit for picture in pictures for unit in encoder.encode(picture)]
    with session(FakeHost(mark=0), options("h264", "h264", fps=30)) as running:
        for number, unit in enumerate(units):
            running.send(number, unit)
        running.finish(len(units))
    answers = running.answers[:-1]
    keyframes = [answer.header.sequence for answer in answers if answer.header.flags & KEYFRAME]
    assert keyframes == [0, 60, 120]  # every two seconds
    for number in keyframes:
        assert answers[number].payload.startswith(
            (b"\0\0\0\1\x67", b"\0\0\1\x67")
        )  # with its parameter sets: a player may join
    frames = H264Decoder().decode(*(answer.payload for answer in answers))
    assert len(frames) == len(pictures)
    assert not any(frame.pict_type == 3 for frame in frames)  # no B-frames
    for frame, picture in zip(frames, pictures, strict=True):
        assert psnr(rgb_of(frame), np.repeat(np.repeat(picture, 2, 0), 2, 1)) > 30


def test_a_stream_joined_between_keyframes_begins_with_the_next() -> None:
    encoder = H264Encoder(64, 48, g="10")
    units = [unit for number in range(30) for unit in encoder.encode(moving(number))]
    units[13] = units[13][:20] + b"damage" * 5
    with session(FakeHost(), options("h264", "jpeg")) as running:
        for number, unit in enumerate(units[5:]):
            running.send(number, unit)
        running.finish(25)
    answered, failed = [answer.header.sequence for answer in running.answers], running.sequences("error")
    assert failed[:5] == [0, 1, 2, 3, 4]
    assert sorted(answered + failed) == list(range(26))
    assert answered[-16:] == list(range(10, 26))


def test_frames_that_the_decoder_holds_back_come_at_the_end() -> None:
    encoder = H264Encoder(64, 48, tune="film", bf="0", preset="medium", refs="4")
    units = [unit for number in (*range(20), None) for unit in encoder.encode(None if number is None else moving(number))]
    with session(FakeHost(), options("h264", "jpeg")) as running:
        for number, unit in enumerate(units[:-1]):
            running.send(number, unit)
        running.send(19, units[-1], flags=END)
        while not running.answer().header.ends:
            pass
    assert [answer.header.sequence for answer in running.answers] == [*range(20), 19]
    assert running.answers[-1].payload == b""


def test_b_frames_are_refused_with_a_way_out() -> None:
    encoder = H264Encoder(64, 48, tune="film", bf="3", preset="medium", b_strategy="0")
    units = [unit for number in (*range(20), None) for unit in encoder.encode(None if number is None else moving(number))]
    with session(FakeHost(), options("h264", "jpeg")) as running:
        for number, unit in enumerate(units):
            running.send(number, unit)
        while running.receive() is not None:
            pass
    assert running.events[-1]["code"] == "unsupported"
    assert "zerolatency" in running.events[-1]["message"]


def test_hdr_is_refused() -> None:
    units = H264Encoder(64, 48, **{"x264-params": "transfer=smpte2084:colorprim=bt2020:colormatrix=bt2020nc"}).encode(moving(0))
    with session(FakeHost(), options("h264", "jpeg")) as running:
        running.send(0, units[0])
        assert running.event("error")["code"] == "hdr"


@pytest.mark.parametrize("late", ["keep", "drop"])
def test_a_dying_engine_costs_no_frame(late: str) -> None:
    """Frames that it held are interpolated, in order and once; it is back as soon as it can be."""
    host = FakeHost(0.05)
    with session(host, options("rgb24", "rgb24", 32, 24, late=late)) as running:
        running.send(0, plain(10).tobytes())
        running.answer()
        for number in range(1, 4):
            running.send(number, plain(10).tobytes())
        time.sleep(0.02)
        host.kill()
        for _ in range(3):
            running.answer()
        assert running.events[-1] == {"type": "model", "model": "bicubic", "reason": "engine_unavailable"}
        assert grey(running) == 10
        host.up = True
        for number in range(4, 400):
            running.send(number, plain(10).tobytes())
            running.answer()
            if grey(running) == 110:
                break
            time.sleep(0.02)
        assert running.events[-1] == {"type": "model", "model": "xlsr", "reason": "engine_back"}
        running.finish(number + 1)
    assert [answer.header.sequence for answer in running.answers] == list(range(number + 2))
    assert [event["type"] for event in running.events] == ["ready", "model", "model"]
    assert host.engines[0].closed


def test_h264_begins_with_a_keyframe_after_a_switch() -> None:
    host = FakeHost()
    with session(host, options("rgb24", "h264", 32, 24)) as running:
        for number in range(6):
            if number == 3:
                host.kill()
            running.send(number, plain(10).tobytes())
            running.answer()
        running.finish(6)
    assert [answer.header.flags for answer in running.answers] == [1, 0, 0, 1, 0, 0, END]


def test_a_hanging_engine_does_not_darken_a_live_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_live_upscaled, "HANG_SECONDS", 0.2)
    host = FakeHost()
    with session(host, options("rgb24", "rgb24", 32, 24, late="drop", budget_seconds=0.1)) as running:
        running.event("ready")
        host.going.clear()
        running.send(0, plain(10).tobytes())
        assert running.answer().header.sequence == 0
        for number in range(1, 5):
            running.send(number, plain(10).tobytes())
            running.answer()
        assert grey(running) == 10
        host.kill()
        running.finish(5)
    assert [answer.header.sequence for answer in running.answers] == list(range(6))


def test_without_an_engine_a_stream_starts_on_interpolation() -> None:
    host = FakeHost()
    host.up = False
    with session(host, options("rgb24", "rgb24", 32, 24)) as running:
        assert running.event("ready")["model"] == "bicubic"
        running.send(0, plain(10).tobytes())
        running.answer()
        running.finish(1)
    assert running.events[-1] == {"type": "model", "model": "bicubic", "reason": "engine_unavailable"}


def test_a_live_stream_does_not_wait_for_a_slow_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ladder, "OPEN_SECONDS", 0.1)
    host = FakeHost()
    host.going.clear()
    with session(host, options("rgb24", "rgb24", 32, 24, late="drop")) as running:
        for number in count():
            running.send(number, plain(10).tobytes())
            running.answer()
            if number == 2:
                assert grey(running) == 10
                host.going.set()
            if grey(running) == 110:
                break
            time.sleep(0.02)
        running.finish(number + 1)
    assert [event["model"] for event in running.events] == ["bicubic", "bicubic", "xlsr"]
    assert len(host.engines) == 1


def test_an_engine_three_times_too_slow_is_relieved_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to the lighter network, then to interpolation, which loses nothing; and up again."""
    monkeypatch.setattr(_strain, "WINDOW_SECONDS", 0.4)
    monkeypatch.setattr(_strain, "FRAMES", 4)
    monkeypatch.setattr(_ladder, "RISE_SECONDS", 3.0)
    host = FakeHost(0.05)
    host.heavy["swift-srgan-psnr"] = 0.05
    wanted = options("rgb24", "rgb24", 32, 24, late="drop", fps=60, budget_seconds=0.15, model="swift-srgan-psnr")
    with session(host, wanted) as running:
        running.event("ready")
        reader = threading.Thread(target=lambda: [None for _ in iter(running.receive, None)])
        reader.start()
        for number in count():
            running.send(number, plain(10).tobytes())
            time.sleep(1 / 60)
            models = [event["model"] for event in running.events if event["type"] == "model"]
            if "bicubic" in models:
                host.seconds = host.heavy["swift-srgan-psnr"] = 0.0
            if "swift-srgan-psnr" in models:
                break
            assert number < 3600
        running.send(number + 1, flags=END)
        reader.join(30)
    switches = [(event["model"], event["reason"]) for event in running.events if event["type"] == "model"]
    assert [model for model, _ in switches] == ["xlsr", "bicubic", "xlsr", "swift-srgan-psnr"]
    assert [reason for _, reason in switches] == ["overload", "overload", "recovered", "recovered"]
    answered = [answer.header.sequence for answer in running.answers]
    assert sorted(answered + running.sequences("dropped")) == list(range(number + 2))
    assert answered == sorted(answered)
    assert len(running.sequences("dropped")) > 10


def test_frames_that_wait_for_the_client_are_no_reason_to_take_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_strain, "WINDOW_SECONDS", 0.2)
    with session(FakeHost(), options("rgb24", "rgb24", 256, 256, late="drop", fps=240, budget_seconds=0.05)) as running:
        for number in range(200):
            running.send(number, plain(1, 256, 256).tobytes())
            time.sleep(0.005)
        running.finish(200)
    assert len(running.sequences("dropped")) > 100
    assert not [event for event in running.events if event["type"] == "model"]


def test_an_engine_that_says_no_is_told() -> None:
    host = FakeHost()
    host.refuses = True
    with session(host, options("rgb24", "rgb24", 32, 24)) as running:
        assert running.event("error")["code"] == "engine_unavailable"


def test_a_frame_that_the_engine_cannot_compute_is_reported() -> None:
    host = FakeHost()
    host.fails = frozenset({1, 2})
    with session(host, options("rgb24", "rgb24", 32, 24)) as running:
        for number in range(5):
            running.send(number, plain(10).tobytes())
        running.finish(5)
    assert [answer.header.sequence for answer in running.answers] == [0, 3, 4, 5]
    assert running.sequences("error") == [1, 2]


def test_a_client_that_leaves_ends_the_session_and_frees_the_engine() -> None:
    host = FakeHost(0.05)
    with session(host, options("rgb24", "rgb24", 32, 24)) as running:
        for number in range(20):
            running.send(number, plain(10).tobytes())
        running.answer()
    assert host.engines[0].closed
    assert all(isinstance(error, OSError) for error in running.errors)


@pytest.mark.parametrize("late", ["keep", "drop"])
def test_a_fault_of_our_own_is_not_taken_for_the_clients(monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    host = FakeHost()
    monkeypatch.setattr(host, "connect", lambda address, request: 1 / 0)
    with session(host, options("rgb24", "rgb24", 32, 24, late=late)) as running:
        assert running.receive() is None
    assert running.events == []
    assert [type(error) for error in running.errors] == [ZeroDivisionError]


def test_stages_are_told_with_each_frame() -> None:
    with session(FakeHost(0.03), options("jpeg", "jpeg")) as running:
        running.send(0, encode("jpeg", natural(96, 128)))
        decode_seconds, queue, infer, encode_seconds = running.answer().stages
        running.finish(1)
    assert 0 < decode_seconds < 1
    assert 0.02 < queue + infer < 1
    assert 0 < encode_seconds < 1
