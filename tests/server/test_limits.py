"""Bodies and headers that are too large, too slow, in crumbs, or never end: refused in one form, beside a bystander."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from server.keyfile import Limits, add_key
from tests.support.bystander import unharmed
from tests.support.pictures import encoded
from tests.support.service import RunningService, running_service

IMAGE_BYTES, VIDEO_BYTES = 100_000, 300_000
ROUTES = [("/v1/images", IMAGE_BYTES, "image"), ("/v1/videos", VIDEO_BYTES, "video")]
PAUSE_SECONDS = 1.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("limits")
    key = add_key(folder / "keys.json", "root", ["admin"], None, Limits())
    add = add_key(folder / "keys.json", "small", ["admin"], None, Limits(bytes=1000))
    (folder / "small").write_text(add)
    with running_service(
        folder,
        key=key,
        api_keys_file=folder / "keys.json",
        max_image_bytes=IMAGE_BYTES,
        max_video_bytes=VIDEO_BYTES,
        body_timeout_seconds=PAUSE_SECONDS,
        header_timeout_seconds=PAUSE_SECONDS,
        slow_consumer_seconds=PAUSE_SECONDS,
    ) as service:
        yield service


def connection(service: RunningService) -> socket.socket:
    return socket.create_connection((service.host, service.port), timeout=60)


def head(service: RunningService, path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: service", f"Authorization: Bearer {service.key}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def answer(sock: socket.socket) -> tuple[int, str]:
    """Status and code of the answer, once the connection was closed after it; (0, "") if it was closed without one."""
    received = b""
    while piece := _received(sock):
        received += piece
    if not received:
        return 0, ""
    header, _, body = received.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error.keys() == {"code", "message", "request_id"}
    return int(header.split()[1]), error["code"]


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionResetError:  # what we still sent came after the end
        return b""


@pytest.mark.parametrize(("path", "limit", "field"), ROUTES)
def test_a_body_over_the_limit(path: str, limit: int, field: str, service: RunningService) -> None:
    with unharmed(service), httpx.Client(base_url=service.url, headers=service.headers, timeout=60) as client:
        declared = client.post(path, content=bytes(limit + 1))
        chunked = client.post(path, content=(bytes(1000) for _ in range(limit // 1000 + 1)))
        multipart = client.post(path, files={field: ("a.png", bytes(limit + 1))})
    for refused in (declared, chunked, multipart):
        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "too_large"
        assert str(limit) in refused.json()["error"]["message"]


def test_a_body_that_would_be_too_large_is_not_asked_for(service: RunningService) -> None:
    with unharmed(service), connection(service) as sock:
        sock.sendall(head(service, "/v1/videos", f"Content-Length: {10**15}", "Expect: 100-continue"))
        assert answer(sock) == (413, "too_large")


def test_who_sends_all_the_same_still_hears_why(service: RunningService) -> None:
    with unharmed(service), connection(service) as sock:
        sock.sendall(head(service, "/v1/images", "Content-Length: 20000000"))
        try:
            sock.sendall(bytes(20_000_000))
        except (BrokenPipeError, ConnectionResetError):
            pytest.fail("the connection was cut before the answer was read")
        assert answer(sock) == (413, "too_large")


def test_a_route_without_a_file_takes_little(service: RunningService) -> None:
    with httpx.Client(base_url=service.url, headers=service.headers) as client:
        assert client.post("/v1/models", content=bytes(100)).status_code == 405
        assert client.get("/v1/models").status_code == 200


def test_the_limit_of_a_key_counts_too(service: RunningService) -> None:
    key = (service.data_folder.parent / "small").read_text()
    with httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {key}"}) as client:
        refused = client.post("/v1/images", content=bytes(1001))
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize(("path", "limit", "field"), ROUTES)
def test_a_million_crumbs(path: str, limit: int, field: str, service: RunningService) -> None:
    with unharmed(service), connection(service) as sock:
        sock.sendall(head(service, path, "Transfer-Encoding: chunked"))
        try:
            for _ in range(1000):
                sock.sendall(b"1\r\nx\r\n" * 1000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert answer(sock) in ((400, "bad_request"), (413, "too_large"))  # what it notices first


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"--b\r\n",
        b"--b\r\nContent-Disposition: form-data; name=video; name=image\r\n\r\nhalf a file",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"X: y\r\n" * 10_000,
        b"--other--\r\n",
    ],
)
@pytest.mark.parametrize(("path", "limit", "field"), ROUTES)
def test_broken_multipart(path: str, limit: int, field: str, body: bytes, service: RunningService) -> None:
    headers = service.headers | {"Content-Type": "multipart/form-data; boundary=b"}
    with unharmed(service):
        refused = httpx.post(service.url + path, content=body, headers=headers, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_multipart")


def test_headers_that_never_end(service: RunningService) -> None:
    with unharmed(service), ExitStack() as stack:
        started = time.monotonic()
        sockets = [stack.enter_context(connection(service)) for _ in range(200)]
        for number, sock in enumerate(sockets):
            sock.sendall(head(service, "/v1/images")[: number % 40])  # some say nothing at all
        for sock in sockets:
            assert sock.recv(100) == b""
        assert time.monotonic() - started < PAUSE_SECONDS + 10


def test_headers_that_trickle_do_not_win_time(service: RunningService) -> None:
    with unharmed(service), connection(service) as sock:
        sock.settimeout(0.2)
        text, closed = head(service, "/v1/images") + bytes(100), False
        started = time.monotonic()
        while not closed and time.monotonic() - started < PAUSE_SECONDS + 10:
            try:
                sock.sendall(text[:1])
                closed = sock.recv(100) == b""
            except TimeoutError:
                text = text[1:]
            except (BrokenPipeError, ConnectionResetError):
                closed = True
        assert closed


def test_headers_of_a_second_request_must_end_too(service: RunningService) -> None:
    with unharmed(service), connection(service) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b'"ok"}' not in received:
            received += sock.recv(65536)
        sock.sendall(b"GET /health/live HT")
        assert sock.recv(100) == b""


@pytest.mark.parametrize("line", [b"X: y\r\n", b"X: " + bytes([97]) * 1000 + b"\r\n", b"x" * 1000])
def test_headers_that_are_too_large(line: bytes, service: RunningService) -> None:
    with unharmed(service), connection(service) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\n")
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100_000_000 // len(line)):
                sock.sendall(line)
        assert answer(sock) in ((413, "too_large"), (400, "bad_request"), (0, ""))


def test_a_client_that_does_not_read_its_answer_is_cut_off(service: RunningService) -> None:
    picture = encoded(np.random.default_rng(0).integers(0, 255, (128, 256, 3), np.uint8), "JPEG")
    with unharmed(service), socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((service.host, service.port))
        sock.sendall(head(service, "/v1/images?model=bicubic", f"Content-Length: {len(picture)}") + picture)
        ours = sock.getsockname()
        deadline = time.monotonic() + 60
        while ours in peers(service):
            assert time.monotonic() < deadline, "the connection is still there"
            time.sleep(0.2)


def peers(service: RunningService) -> set[tuple[str, int]]:
    """Where connections to the service come from, as the kernel has them."""
    found = set()
    for line in Path(f"/proc/{service.pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if int(local.split(":")[1], 16) == service.port and state == "01":
            address, port = remote.split(":")
            found.add((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)))
    return found


@pytest.mark.parametrize(("path", "limit", "field"), ROUTES)
@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_body_that_stalls(path: str, limit: int, field: str, framing: str, service: RunningService) -> None:
    with unharmed(service), connection(service) as sock:
        sock.sendall(head(service, path, framing) + (b"abc" if "100" in framing else b"3\r\nabc\r\n"))
        assert answer(sock) == (408, "slow_body")


@pytest.mark.parametrize(("path", "limit", "field"), ROUTES)
@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_leaves_within_its_body(path: str, limit: int, field: str, reset: bool, service: RunningService) -> None:
    multipart = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="a"\r\n\r\nabc'.encode()
    with unharmed(service):
        for framing, body in ((f"Content-Length: {limit}", b"abc"), ("Transfer-Encoding: chunked", b"3\r\nabc\r\n")):
            for kind in ("image/png", "multipart/form-data; boundary=b"):
                piece = multipart if "multipart" in kind and "Length" in framing else body
                sock = connection(service)
                sock.sendall(head(service, path, framing, f"Content-Type: {kind}") + piece)
                time.sleep(0.1)
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
    assert not [line for line in service.log if " 500 " in line]


@pytest.mark.parametrize(
    "text", [b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n"]
)
def test_what_is_no_http(text: bytes, service: RunningService) -> None:
    with unharmed(service), connection(service) as sock:
        sock.sendall(text)
        assert answer(sock) == (400, "bad_request")


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "10, 20"])
def test_lengths_that_are_none(length: str, service: RunningService) -> None:
    with unharmed(service), connection(service) as sock:
        sock.sendall(head(service, "/v1/images", f"Content-Length: {length}") + b"abc")
        assert answer(sock)[0] == 400
