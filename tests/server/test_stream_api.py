"""`/v1/stream` of the real service: frames, limits, clients that misbehave, processes that die. Someone else never notices."""

import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from server.keyfile import Limits, add_key
from server.streams.protocol import END, KEYFRAME
from tests.support.bystander import unharmed, watched
from tests.support.live import H264Decoder, H264Encoder, encode, plain, psnr
from tests.support.service import RunningService, running_service
from tests.support.stream import Client, client

MAX_FRAME_BYTES = 1 << 20
SLOW_SECONDS = 2.0
PING_SECONDS = 4.0
START_SECONDS = 1.5


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    limits = {"max_frame_bytes": MAX_FRAME_BYTES, "body_timeout_seconds": START_SECONDS}
    settings = {"slow_consumer_seconds": SLOW_SECONDS, "ping_seconds": PING_SECONDS, **limits}
    with running_service(tmp_path_factory.mktemp("stream"), **settings) as running, watched(running):
        yield running


def wait_until(what: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def metric(service: RunningService, name: str) -> float:
    return service.metrics().get(f"fourfold_{name}", 0.0)


def sessions(service: RunningService) -> float:
    return metric(service, 'streams_active{kind="websocket"}')


def counted(service: RunningService, outcome: str) -> float:
    return metric(service, f'frames_total{{kind="websocket",outcome="{outcome}"}}')


def _command(pid: int) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


def test_a_thousand_jpeg_frames_come_back_in_order_and_are_counted(service: RunningService) -> None:
    before = counted(service, "delivered"), counted(service, "dropped")
    with unharmed(service), client(service) as stream:
        stream.start("jpeg", "jpeg", late="drop", fps=100)
        picture = encode("jpeg", plain(99))
        reader = threading.Thread(target=lambda: stream.close_code())
        reader.start()
        for number in range(1000):
            stream.send(number, picture, pts_us=number * 10_000)
            time.sleep(0.005)
        stream.send(1000, flags=END)
        reader.join(60)
    assert stream.answered == sorted(set(stream.answered))
    assert sorted(stream.answered + stream.dropped) == list(range(1000))
    assert all(header.pts_us == header.sequence * 10_000 and header.server_us > 0 for header, _ in stream.answers[:-1])
    assert counted(service, "delivered") - before[0] == len(stream.answered)
    assert counted(service, "dropped") - before[1] == len(stream.dropped)


def test_h264_comes_back_as_h264_that_plays(service: RunningService) -> None:
    encoder = H264Encoder(64, 48)
    units = [unit for number in range(40) for unit in encoder.encode(plain(3 * number + 60, 64, 48))]
    with client(service) as stream:
        stream.start("h264", "h264", None)
        for number, unit in enumerate(units):
            stream.send(number, unit)
        stream.finish(len(units))
    assert stream.answered == list(range(40))
    assert stream.answers[0][0].flags & KEYFRAME
    frames = H264Decoder().decode(*(payload for header, payload in stream.answers if not header.ends))
    assert [(frame.width, frame.height) for frame in frames] == [(256, 192)] * 40
    for number, frame in enumerate(frames):
        assert psnr(frame.to_ndarray(format="rgb24"), plain(3 * number + 60, 256, 192)) > 35


def test_the_first_word_and_the_regular_ones(service: RunningService) -> None:
    with client(service) as stream:
        stream.start("rgb24", "png")
        ready = stream.events[0]
        assert ready["output"] == {"format": "png", "width": 128, "height": 96}
        assert (ready["model"], bool(ready["session"]), bool(ready["engine"]), bool(ready["precision"])) == (
            "xlsr",
            True,
            True,
            True,
        )
        stream.send(0, plain(7).tobytes())
        stats = stream.event("stats")
        assert stats["fps_in"] > 0
        assert set(stats["latency_ms"]) == {"p50", "p95", "p99"}
        assert stats["latency_ms"]["p50"] > 0
        assert (stats["drops"], stats["model"]) == ({}, "xlsr")
        labels = [name for name in service.metrics() if "stream_latency_seconds" in name]
        assert len(labels) == 3
        stream.finish(1)
    wait_until(lambda: not any("stream_latency_seconds" in name for name in service.metrics()))


@pytest.mark.parametrize("words", ["no JSON", json.dumps({"type": "start", "input": {"format": "gif"}}), b"binary"])
def test_a_start_that_cannot_be_used_is_told_and_closed(service: RunningService, words: str | bytes) -> None:
    with unharmed(service), client(service) as stream:
        stream.socket.send(words)
        assert stream.close_code() == 1003
        assert stream.events[-1]["type"] == "error"


def test_who_says_nothing_does_not_keep_a_place(service: RunningService) -> None:
    with unharmed(service), client(service) as stream:
        assert sessions(service) == 1
        assert stream.close_code() == 1008
        assert stream.error == "slow_body"
        wait_until(lambda: sessions(service) == 0)


def test_a_model_that_does_not_exist(service: RunningService) -> None:
    with client(service) as stream, pytest.raises(ConnectionClosed):
        stream.start(model="../../etc/passwd")
    assert stream.error == "unknown_model"
    assert "xlsr" in stream.events[-1]["message"]


def test_text_where_a_frame_is_due(service: RunningService) -> None:
    with unharmed(service), client(service) as stream:
        stream.start()
        stream.socket.send("hello")
        assert stream.close_code() == 1003
    assert stream.error == "bad_message"
    wait_until(lambda: sessions(service) == 0)


@pytest.mark.parametrize("second", [5, 4])
def test_sequence_numbers_rise(service: RunningService, second: int) -> None:
    with client(service) as stream:
        stream.start()
        stream.send(5, plain(1).tobytes())
        stream.send(second, plain(1).tobytes())
        assert stream.close_code() == 1003
    assert str(second) in stream.events[-1]["message"]


def oversize_plain(stream: Client) -> None:
    stream.socket.send(bytes(60 << 20))


def oversize_fragments(stream: Client) -> None:
    stream.socket.send(bytes(1 << 16) for _ in range(960))


def oversize_crumbs(stream: Client) -> None:
    stream.socket.send(b"x" for _ in range(100_000))


def oversize_deflated(stream: Client) -> None:
    assert not stream.socket.protocol.extensions  # it was offered: a few bytes could unfold into a lot
    oversize_plain(stream)


@pytest.mark.parametrize("attack", [oversize_plain, oversize_fragments, oversize_crumbs, oversize_deflated])
def test_oversize_messages_are_refused_without_being_held(service: RunningService, attack: Callable[[Client], None]) -> None:
    offered = {"compression": "deflate"} if attack is oversize_deflated else {}
    before, status = sum(value for name, value in service.metrics().items() if "stream_faults" in name), _peak(service)
    with unharmed(service), client(service, **offered) as stream:
        stream.start()
        try:
            attack(stream)
        except ConnectionClosed as closed:
            assert closed.rcvd
            assert closed.rcvd.code == 1009
        assert stream.close_code() == 1009
    assert _peak(service) - status < 24 << 20
    assert sum(value for name, value in service.metrics().items() if "stream_faults" in name) > before


def _peak(service: RunningService) -> int:
    """Bytes that the api process has had at most."""
    [line] = [line for line in Path(f"/proc/{service.pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_a_flood_of_pings_from_someone_who_does_not_read_takes_no_memory(service: RunningService) -> None:
    before = _peak(service)
    with unharmed(service), client(service) as stream:
        stream.start()
        raw = stream.socket.socket
        raw.settimeout(0.5)
        ping = struct.pack("!BBI", 0x89, 0x80 | 125, 0) + bytes(125)
        try:
            for _ in range(2000):
                raw.sendall(ping * 200)
        except OSError:
            pass  # it is held back, or was cut off
        raw.close()
    assert _peak(service) - before < 24 << 20


def test_a_client_that_never_reads_is_cut_off_and_all_its_frames_are_counted(service: RunningService) -> None:
    before = [counted(service, outcome) for outcome in ("delivered", "dropped", "failed")]
    frame = plain(5, 240, 180).tobytes()
    with unharmed(service), client(service, max_queue=1) as stream:
        stream.start(size=(240, 180), late="drop", fps=100)
        faults = metric(service, 'stream_faults_total{reason="slow_consumer"}')
        for sent in range(3000):
            stream.send(sent, frame)
            time.sleep(0.01)
            if sent % 20 == 0 and metric(service, 'stream_faults_total{reason="slow_consumer"}') > faults:
                break
        assert stream.close_code() == 1013  # whoever reads after all, reads why
    assert stream.error == "slow_consumer"
    wait_until(lambda: sessions(service) == 0)
    after = [counted(service, outcome) for outcome in ("delivered", "dropped", "failed")]
    assert after[1] > before[1]
    assert len(stream.answered) <= after[0] - before[0]
    assert sum(after) - sum(before) > len(stream.answered)


FROZEN = """
import os, signal, sys
from websockets.sync.client import connect
socket = connect(sys.argv[1], compression=None)
socket.send(sys.argv[2])
print(socket.recv(), flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_frozen_client_is_noticed(service: RunningService) -> None:
    words = json.dumps({"type": "start", "input": {"format": "rgb24", "width": 32, "height": 24}})
    command = [sys.executable, "-c", FROZEN, f"{service.ws_url}/v1/stream", words]
    with unharmed(service), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert "ready" in process.stdout.readline()
        assert sessions(service) == 1
        wait_until(lambda: sessions(service) == 0)
        process.kill()


def test_ten_times_the_agreed_rate_is_counted_and_reported(service: RunningService) -> None:
    names = {reason: f'frames_dropped_total{{kind="websocket",reason="{reason}"}}' for reason in ("queue_full", "late")}
    before = {reason: metric(service, name) for reason, name in names.items()}
    with unharmed(service), client(service) as stream:
        stream.start("jpeg", "jpeg", late="drop", fps=10)
        picture = encode("jpeg", plain(9))
        for number in range(200):
            stream.send(number, picture)
            time.sleep(0.01)
        stream.finish(200)
    assert sorted(stream.answered + stream.dropped) == list(range(200))
    assert len(stream.dropped_for("queue_full")) > 50
    for reason, name in names.items():
        assert metric(service, name) - before[reason] == len(stream.dropped_for(reason))


def test_a_huge_picture_in_mid_stream_is_a_fault_of_that_stream(service: RunningService) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(file, "PNG")
    with unharmed(service), client(service) as stream:
        stream.start("png", "jpeg", None)
        stream.send(0, encode("png", plain(1)))
        stream.answer()
        stream.send(1, file.getvalue())
        assert stream.close_code() == 1008
    assert stream.error == "dimensions"
    assert metric(service, 'stream_faults_total{reason="dimensions"}') >= 1


def test_a_client_that_vanishes_leaves_nothing_behind(service: RunningService) -> None:
    with unharmed(service):
        for _ in range(5):
            with client(service) as stream:
                stream.start()
                for number in range(3):
                    stream.send(number, plain(1).tobytes())
                stream.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.socket.close()  # a reset, without a word
        wait_until(lambda: sessions(service) == 0)


def test_a_worker_that_is_killed_ends_its_session_alone(service: RunningService) -> None:
    with client(service) as other:
        other.start()
        there = set(service.descendants())
        with unharmed(service), client(service) as stream:
            stream.start()
            [worker] = set(service.descendants()) - there
            stream.send(0, plain(1).tobytes())
            stream.answer()
            os.kill(worker, signal.SIGKILL)
            assert stream.close_code() == 1011
        assert stream.error == "crashed"
        other.send(0, plain(1).tobytes())
        other.finish(1)
        assert other.answered == [0]


def test_the_engine_is_killed_under_load(service: RunningService) -> None:
    """No frame is lost or answered twice; pictures are interpolated until the engine is back."""
    with client(service) as stream:
        stream.start("rgb24", "rgb24")
        for number in range(2000):
            stream.send(number, plain(number % 200).tobytes())
            stream.answer()
            models = [event["model"] for event in stream.events if event["type"] == "model"]
            if number == 20:
                [engine] = [pid for pid in service.descendants() if b"spawn_main" in _command(pid)]
                os.kill(engine, signal.SIGKILL)
            if models[-1:] == ["xlsr"]:
                break
            time.sleep(0.02)
        stream.finish(number + 1)
    assert stream.answered == list(range(number + 1))
    assert models == ["bicubic", "xlsr"]
    assert metric(service, 'model_switches_total{from="xlsr",reason="engine_unavailable",to="bicubic"}') >= 1


def test_the_engine_hangs_and_a_live_stream_goes_on(service: RunningService) -> None:
    """Pictures are interpolated until the engine was found to hang, was killed and is back."""
    with client(service) as stream:
        stream.start("rgb24", "rgb24", late="drop", fps=20)
        reader = threading.Thread(target=lambda: stream.close_code())
        reader.start()
        [engine] = [pid for pid in service.descendants() if b"spawn_main" in _command(pid)]
        models = list[str]()
        for number in range(1200):
            stream.send(number, plain(number % 200).tobytes())
            if number == 10:
                os.kill(engine, signal.SIGSTOP)
            models = [event["model"] for event in stream.events if event["type"] == "model"]
            if models[-1:] == ["xlsr"]:
                break
            time.sleep(0.05)
        stream.send(number + 1, flags=END)
        reader.join(60)
    assert models == ["bicubic", "xlsr"]
    assert stream.answered == sorted(set(stream.answered))
    assert sorted(stream.answered + stream.dropped) == list(range(number + 1))
    assert len(stream.answered) > number / 2


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("keyed")
    file = folder / "keys.json"
    keys = {
        "root": add_key(file, "root", ["admin"], None, Limits()),
        "one": add_key(file, "one", ["streams"], None, Limits(streams=1, pixels=32 * 24, seconds=3)),
        "many": add_key(file, "many", ["streams"], None, Limits(streams=9)),
        "other": add_key(file, "other", ["images"], None, Limits()),
    }
    settings: dict[str, Any] = {"api_keys_file": file, "allowed_origins": ("https://friend.example",), "max_streams": 3}
    with running_service(folder, key=keys["root"], max_streams_per_key=2, **settings) as running, watched(running):
        yield running, keys


def bearer(key: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {key}"}}


def refusal(service: RunningService, **options: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
    """How a handshake is refused: status, error, headers."""
    with pytest.raises(InvalidStatus) as caught, client(service, **options):
        pass
    answer = caught.value.response
    assert answer.body
    return answer.status_code, json.loads(bytes(answer.body))["error"], dict(answer.headers)


def test_one_session_over_the_quota_is_refused_and_the_others_go_on(keyed: tuple[RunningService, dict[str, str]]) -> None:
    service, keys = keyed
    with client(service) as first, client(service) as second:
        for stream in (first, second):
            stream.start()
        status, error, headers = refusal(service)
        assert (status, error["code"]) == (429, "quota")
        assert int(headers["retry-after"]) > 0
        with client(service, **bearer(keys["one"])) as third:
            third.start()
            status, error, _ = refusal(service, **bearer(keys["one"]))
            assert (status, error["code"]) == (429, "quota")
            third.finish(0)
        for stream in (first, second):
            stream.send(0, plain(1).tobytes())
            stream.finish(1)
            assert stream.answered == [0]
    wait_until(lambda: sessions(service) == 0)
    with client(service) as stream:  # its place is free again
        stream.start()
    wait_until(lambda: sessions(service) == 0)


def test_when_all_places_are_taken_the_service_says_so(keyed: tuple[RunningService, dict[str, str]]) -> None:
    service, keys = keyed
    with client(service) as stream, client(service), client(service, **bearer(keys["one"])):
        status, error, headers = refusal(service, **bearer(keys["many"]))
        assert (status, error["code"]) == (503, "busy")
        assert int(headers["retry-after"]) > 0
        stream.start()
    wait_until(lambda: sessions(service) == 0)


def test_limits_of_a_key_hold_for_its_sessions(keyed: tuple[RunningService, dict[str, str]]) -> None:
    service, keys = keyed
    with client(service, **bearer(keys["one"])) as stream:
        with pytest.raises(ConnectionClosed):
            stream.start(size=(64, 48))
        assert stream.error == "dimensions"
    with client(service, **bearer(keys["one"])) as stream:
        stream.start()
        assert stream.close_code() == 1008
        assert stream.error == "quota"


def test_a_foreign_page_may_not_open_a_stream(keyed: tuple[RunningService, dict[str, str]]) -> None:
    service, _ = keyed
    for origin in ("https://evil.example", "null", f"http://{service.host}:1"):
        status, error, _ = refusal(service, origin=Origin(origin))
        assert (status, error["code"]) == (403, "forbidden")
    for origin in ("https://friend.example", service.url):
        with client(service, origin=Origin(origin)) as stream:
            stream.start()


def test_keys_are_checked_and_a_browser_may_offer_its_own_as_a_subprotocol(
    keyed: tuple[RunningService, dict[str, str]],
) -> None:
    service, keys = keyed
    assert refusal(service, additional_headers={})[0] == 401
    assert refusal(service, **bearer("ff_wrong"))[0] == 401
    assert refusal(service, **bearer(keys["other"]))[0] == 403
    name = Subprotocol(f"fourfold.bearer.{keys['root']}")
    with client(service, additional_headers={}, subprotocols=[name]) as stream:
        assert stream.socket.subprotocol == name
        stream.start()


def test_stopping_lets_frames_end_and_tells_clients_to_come_back(tmp_path: Path) -> None:
    with running_service(tmp_path) as service, client(service) as stream:
        stream.start("rgb24", "rgb24")
        for number in range(10):
            stream.send(number, plain(1).tobytes())
        stream.answer()
        service.process.send_signal(signal.SIGTERM)
        assert stream.close_code() == 1012
        assert stream.error == "restart"
        assert stream.answered == list(range(len(stream.answered)))
        assert service.process.wait(30) == 0
