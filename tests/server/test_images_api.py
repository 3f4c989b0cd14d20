"""Pictures over HTTP, from a real service: the right pixels, clear refusals, and no picture that harms another one."""

import asyncio
import io
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from server.app import create_app
from server.images import ImageUpscaler
from server.settings import Settings
from tests.support.bystander import unharmed
from tests.support.pictures import encoded, hostile_pictures, ramp
from tests.support.service import RunningService, running_service

ENGINE: dict[str, Any] = {"engine": "openvino", "precision": "fp32"}  # so that a picture has one right result
MAX_BYTES = 200_000
MAX_PIXELS = 1200 * 1000
BICUBIC: dict[str, Any] = {"model": "bicubic", "scale": "2"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    settings: dict[str, Any] = {"max_image_bytes": MAX_BYTES, "max_image_pixels": MAX_PIXELS, "body_timeout_seconds": 2.0}
    with running_service(tmp_path_factory.mktemp("service"), **settings, **ENGINE) as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    with client_of(service) as opened:
        yield opened


@pytest.fixture(scope="module")
def bicubic() -> Iterator[ImageUpscaler]:
    """What the command line makes of pictures."""
    with ImageUpscaler("bicubic", 2, **ENGINE) as upscaler:
        yield upscaler


def client_of(service: RunningService) -> httpx.Client:
    return httpx.Client(base_url=f"{service.url}/v1", timeout=60)


def opened(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(answer.content))
    picture.load()
    return picture


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert error.keys() == {"code", "message", "request_id"} and not re.search("/(tmp|usr|root|home)|<_io", error["message"])
    return answer.status_code, error["code"], error["message"]


def multipart(*parts: tuple[str, bytes], end: bytes = b"--edge--\r\n") -> dict[str, Any]:
    head = 'Content-Disposition: form-data; name="{}"; filename="a.png"\r\n\r\n'
    body = b"".join(b"--edge\r\n" + head.format(name).encode() + data + b"\r\n" for name, data in parts) + end
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=edge"}}


def test_a_picture_comes_back_larger_with_all_that_is_known_of_it(client: httpx.Client, bicubic: ImageUpscaler) -> None:
    picture = ramp(40, 30)
    answer = client.post("/images", params=BICUBIC, content=encoded(picture, "PNG"))
    assert np.array_equal(np.asarray(opened(answer)), bicubic.upscale(picture))
    headers = answer.headers
    assert headers["content-type"] == "image/png" and int(headers["content-length"]) == len(answer.content)
    assert (headers["x-fourfold-model"], headers["x-fourfold-engine"]) == ("bicubic", "openvino")
    assert headers["x-fourfold-precision"] == "fp32" and 0 < float(headers["x-fourfold-server-ms"]) < 60_000
    assert "x-fourfold-alpha" not in headers


def test_without_a_word_the_best_model_makes_it_four_times_larger(client: httpx.Client) -> None:
    answer = client.post("/images", content=encoded(ramp(20, 30), "JPEG"))
    assert opened(answer).size == (120, 80)
    assert answer.headers["x-fourfold-model"] == "xlsr"


def test_larger_than_an_engine_takes_at_once(client: httpx.Client, bicubic: ImageUpscaler) -> None:
    picture = ramp(1000, 1200)  # several tiles
    answer = client.post("/images", params=BICUBIC, content=encoded(picture, "WEBP", lossless=True))
    assert np.array_equal(np.asarray(opened(answer)), bicubic.upscale(picture))


def test_every_kind_of_picture_gives_the_right_pixels(client: httpx.Client, bicubic: ImageUpscaler) -> None:
    colours = ramp(40, 30)
    grey, turned = colours[..., 0], Image.Exif()
    turned[0x0112] = 6
    inks = Image.fromarray(np.dstack([colours, grey]), "CMYK")
    inks_file = encoded(inks, "JPEG", quality=100)
    with Image.open(io.BytesIO(inks_file)) as read_back:
        plain = np.asarray(read_back.convert("RGB"))
    palette = Image.fromarray(colours).quantize(16)
    for kind, file, expected in (
        ("one pixel", encoded(colours[:1, :1], "PNG"), colours[:1, :1]),
        ("16 bits", encoded(grey.astype(np.uint16) * 256 + 9, "PNG"), np.dstack([grey] * 3)),
        ("palette", encoded(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        ("cmyk", inks_file, plain),
        ("exif", encoded(colours, "PNG", exif=turned), colours.swapaxes(0, 1)[:, ::-1]),
    ):
        result = opened(client.post("/images", params=BICUBIC, content=file))
        assert np.array_equal(np.asarray(result), bicubic.upscale(np.ascontiguousarray(expected))), kind


def test_alpha_is_kept_and_where_it_cannot_be_that_is_said(client: httpx.Client) -> None:
    file = encoded(np.dstack([ramp(40, 30), np.full((40, 30), 99, np.uint8)]), "PNG")
    for kind, mode, said in (("image/png", "RGBA", None), ("image/webp", "RGBA", None), ("image/jpeg", "RGB", "dropped")):
        answer = client.post("/images", params=BICUBIC, content=file, headers={"Accept": kind})
        result = opened(answer)
        assert (answer.headers["content-type"], result.mode) == (kind, mode)
        assert answer.headers.get("x-fourfold-alpha") == said
        assert mode == "RGB" or set(np.unique(np.asarray(result)[..., 3])) == {99}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/png"),
        ("", "image/png"),
        ("image/avif, image/webp, */*;q=0.8", "image/webp"),
        ("image/jpeg;q=0.3, image/png;q=0.2", "image/jpeg"),
        ("image/*, image/png;q=0", "image/jpeg"),
        ("text/html", None),
        ("image/png;q=0", None),
        ("image/png;q=much", None),
    ],
)
def test_the_answer_has_the_type_that_was_liked_best(client: httpx.Client, accept: str, kind: str | None) -> None:
    answer = client.post("/images", params=BICUBIC, content=encoded(ramp(4, 4), "PNG"), headers={"Accept": accept})
    if kind:
        assert opened(answer).format == kind.removeprefix("image/").upper()
        assert answer.headers["content-type"] == kind and answer.headers["vary"] == "Accept"
    else:
        assert refusal(answer)[:2] == (406, "not_acceptable")


def test_quality_is_obeyed(client: httpx.Client) -> None:
    file = encoded(ramp(100, 100), "PNG")
    sizes = [
        len(
            client.post(
                "/images", params=BICUBIC | {"quality": quality}, content=file, headers={"Accept": "image/jpeg"}
            ).content
        )
        for quality in (10, 95)
    ]
    assert sizes[0] < sizes[1] / 2


def test_a_form_carries_one_picture(client: httpx.Client) -> None:
    file = encoded(ramp(40, 30), "PNG")
    whole = client.post("/images", params=BICUBIC, content=file).content
    for form in (multipart(("image", file)), multipart(("note", b"hello"), ("image", file), ("other", file))):
        assert client.post("/images", params=BICUBIC, **form).content == whole
    assert client.post("/images", params=BICUBIC, files={"image": ("a.png", file)}).content == whole


@pytest.mark.parametrize(
    "form",
    [
        multipart(("image", b"a"), ("image", b"b")),
        multipart(("picture", b"a")),
        multipart(("image", b"a"), end=b""),
        multipart(*[("x", b"")] * 100),
        multipart() | {"content": b"no form at all"},
        multipart(("image", b"a")) | {"headers": {"Content-Type": "multipart/form-data"}},
    ],
    ids=["two pictures", "no picture", "no end", "many parts", "no form", "no boundary"],
)
def test_broken_forms_are_refused(client: httpx.Client, form: dict[str, Any]) -> None:
    assert refusal(client.post("/images", params=BICUBIC, **form))[:2] == (400, "bad_multipart")


def test_what_is_asked_for_wrongly_is_named(client: httpx.Client) -> None:
    file = encoded(ramp(4, 4), "PNG")
    for parameters, status, code, words in (
        ({"model": "esrgan"}, 404, "unknown_model", "there are xlsr"),
        ({"model": "swift-srgan-psnr", "scale": 2}, 404, "unknown_model", "swift-srgan-psnr (x4)"),
        ({"model": "../../etc/passwd.safetensors"}, 404, "unknown_model", "there are xlsr"),
        ({"scale": 9}, 422, "invalid", "scale is '9'"),
        ({"quality": 0}, 422, "invalid", "quality is '0'"),
    ):
        answer = client.post("/images", params=parameters, content=file)
        assert answer.status_code == status and answer.json()["error"]["code"] == code
        assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("way", ["length", "chunked", "form"])
def test_more_bytes_than_allowed_are_refused(service: RunningService, client: httpx.Client, way: str) -> None:
    file = bytes(MAX_BYTES + 1)
    bodies: dict[str, Any] = {
        "length": {"content": file},
        "chunked": {"content": iter([file])},
        "form": multipart(("image", file)),
    }
    with unharmed(service):
        status, code, message = refusal(client.post("/images", **bodies[way]))
    assert (status, code) == (413, "too_large") and str(MAX_BYTES) in message


def test_files_that_are_no_good_pictures_are_refused(service: RunningService, client: httpx.Client) -> None:
    """EPS, SVG, an empty file, bombs of 12000x12000 pixels, cut off files."""
    statuses = {"unsupported_type": 415, "unreadable": 422, "dimensions": 422}
    with unharmed(service):
        for name, (file, code) in hostile_pictures().items():
            answer = client.post("/images", content=file, headers={"Content-Type": "image/png"})
            status, told, message = refusal(answer)
            assert (status, told) == (statuses[code], code), name
            assert code != "dimensions" or f"12000x12000 pixels; at most {MAX_PIXELS}" in message


def test_a_client_that_leaves_while_it_sends_leaves_nothing(service: RunningService) -> None:
    with unharmed(service):
        for _ in range(20):
            with socket.create_connection((service.host, service.port)) as connection:
                connection.sendall(b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close means reset
    assert not [line for line in service.log if " 500 " in line]


def test_a_client_that_stops_sending_is_told(service: RunningService) -> None:
    with unharmed(service), socket.create_connection((service.host, service.port)) as connection:
        connection.sendall(b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408") and b"slow_body" in answer


def test_many_at_once_each_get_their_own(service: RunningService, bicubic: ImageUpscaler) -> None:
    pictures = [ramp(20 + number, 90 - number) for number in range(30)]
    with client_of(service) as client, ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda p: client.post("/images", params=BICUBIC, content=encoded(p, "PNG")), pictures))
    for picture, answer in zip(pictures, answers, strict=True):
        assert np.array_equal(np.asarray(opened(answer)), bicubic.upscale(picture))


def test_the_counters_agree_with_what_the_client_saw(service: RunningService, client: httpx.Client) -> None:
    names = (
        'fourfold_frames_total{kind="image",outcome="delivered"}',
        'fourfold_frames_total{kind="image",outcome="failed"}',
        'fourfold_frame_latency_seconds_count{kind="image"}',
        'fourfold_stage_seconds_count{stage="encode"}',
        'fourfold_rejected_total{reason="unsupported_type"}',
    )
    before = service.metrics()
    for _ in range(3):
        opened(client.post("/images", params=BICUBIC, content=encoded(ramp(9, 9), "PNG")))
    for _ in range(2):
        assert client.post("/images", content=b"no picture").status_code == 415
    after = service.metrics()
    assert [after[name] - before.get(name, 0) for name in names] == [3, 2, 3, 3, 2]


def test_the_documentation_says_what_goes_in_and_out(service: RunningService) -> None:
    call = httpx.get(f"{service.url}/openapi.json").json()["paths"]["/v1/images"]["post"]
    assert {"image/png", "image/jpeg", "image/webp", "multipart/form-data"} <= call["requestBody"]["content"].keys()
    assert call["responses"]["200"]["content"].keys() == {"image/png", "image/jpeg", "image/webp"}
    assert "X-Fourfold-Model" in call["responses"]["200"]["headers"] and "curl" in call["description"]


@pytest.mark.anyio
async def test_the_event_loop_is_never_held_up(tmp_path: Path) -> None:
    app = await asyncio.to_thread(create_app, Settings(data_folder=tmp_path, image_workers=1, **ENGINE))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://service/v1") as client:
        file = encoded(ramp(300, 300), "PNG")
        for body in ({"content": file}, multipart(("image", file))):
            opened(await client.post("/images", params=BICUBIC, **body))
        assert (await client.post("/images", content=b"no picture")).status_code == 415


@contextmanager
def impatient_service(folder: Path, **settings: Any) -> Iterator[RunningService]:
    with running_service(folder, image_workers=1, image_timeout_seconds=4.0, **settings, **ENGINE) as running:
        with client_of(running) as client:
            opened(client.post("/images", params=BICUBIC, content=encoded(ramp(9, 9), "PNG")))
        yield running


def worker_of(service: RunningService) -> int:
    """The process of the one worker for pictures: the child of the forkserver."""
    for pid in service.descendants():
        if b"server.streams.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return int(children[0])
    raise AssertionError("there is no worker")


def engine_of(service: RunningService) -> int:
    for pid in service.descendants():
        with suppress(FileNotFoundError):
            if "libopenvino" in Path(f"/proc/{pid}/maps").read_text():
                return pid
    raise AssertionError("there is no engine")


def end(stopped: int, number: signal.Signals) -> None:
    os.kill(stopped, number)
    os.kill(stopped, signal.SIGCONT)


def test_a_worker_that_hangs_or_dies_costs_one_picture(tmp_path: Path) -> None:
    with impatient_service(tmp_path) as service, client_of(service) as client:
        file = encoded(ramp(9, 9), "PNG")
        for number, status, code in ((signal.SIGSTOP, 504, "decode_timeout"), (signal.SIGSEGV, 422, "unreadable")):
            worker = worker_of(service)
            os.kill(worker, signal.SIGSTOP)
            if number != signal.SIGSTOP:
                threading.Timer(0.5, end, (worker, number)).start()
            assert refusal(client.post("/images", params=BICUBIC, content=file))[:2] == (status, code)
            opened(client.post("/images", params=BICUBIC, content=file))
            assert worker_of(service) != worker
        os.kill(worker_of(service), signal.SIGKILL)  # while it has nothing to do: nobody notices
        time.sleep(0.2)
        opened(client.post("/images", params=BICUBIC, content=file))


def test_an_engine_that_hangs_is_told_from_a_picture_that_does(tmp_path: Path) -> None:
    with impatient_service(tmp_path) as service, client_of(service) as client:
        engine = engine_of(service)
        os.kill(engine, signal.SIGSTOP)
        answer = client.post("/images", params=BICUBIC, content=encoded(ramp(9, 9), "PNG"))
        assert refusal(answer)[:2] == (504, "engine_timeout")
        os.kill(engine, signal.SIGCONT)
        opened(client.post("/images", params=BICUBIC, content=encoded(ramp(9, 9), "PNG")))


def test_an_engine_that_dies_under_a_picture_is_waited_for(tmp_path: Path) -> None:
    with running_service(tmp_path, image_workers=1, **ENGINE) as service, client_of(service) as client:
        file = encoded(ramp(9, 9), "PNG")
        opened(client.post("/images", params=BICUBIC, content=file))
        for _ in range(2):
            os.kill(engine_of(service), signal.SIGKILL)
            opened(client.post("/images", params=BICUBIC, content=file))


def test_a_picture_that_needs_too_much_memory_fails_alone(tmp_path: Path) -> None:
    with impatient_service(tmp_path, worker_memory_bytes=100 << 20) as service, client_of(service) as client:
        large = encoded(np.zeros((2000, 2000, 3), np.uint8), "PNG")
        status, code, message = refusal(client.post("/images", params={"model": "bicubic", "scale": 4}, content=large))
        assert (status, code) == (422, "unsupported") and "memory" in message
        opened(client.post("/images", params=BICUBIC, content=encoded(ramp(9, 9), "PNG")))


def test_a_client_that_does_not_read_its_answer_is_left(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1000, 1500, 3), np.uint8)
    file = encoded(noise, "PNG")
    with running_service(tmp_path, slow_consumer_seconds=1.0, **ENGINE) as service, client_of(service) as client:
        with socket.create_connection((service.host, service.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"POST /v1/images?model=bicubic&scale=4 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(file)}\r\n\r\n"
            connection.sendall(head.encode() + file)
            failed = 'fourfold_frames_total{kind="image",outcome="failed"}'
            deadline = time.monotonic() + 60
            while not service.metrics().get(failed):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        opened(client.post("/images", params=BICUBIC, content=encoded(ramp(9, 9), "PNG")))
        assert not [line for line in service.log if re.search("Traceback| 500 ", line)]


def test_more_pictures_than_there_is_memory_for_are_told_to_come_back(tmp_path: Path) -> None:
    size = 50_000
    limits: dict[str, Any] = {"max_image_bytes": size, "max_output_pixels": 10_000, "body_timeout_seconds": 3.0}
    with running_service(tmp_path, **limits, **ENGINE) as service, client_of(service) as client:
        head = f"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        halves = [socket.create_connection((service.host, service.port)) for _ in range(9)]
        for half in halves:
            half.sendall(head + bytes(size - 1))
        time.sleep(0.5)
        answer = client.post("/images", params=BICUBIC, content=bytes(size - 1))
        assert refusal(answer)[:2] == (503, "busy") and answer.headers["retry-after"] == "2"
        for half in halves:
            half.close()
        time.sleep(0.5)
        opened(client.post("/images", params=BICUBIC, content=encoded(ramp(9, 9), "PNG")))
