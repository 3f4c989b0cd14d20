"""The service as an operator meets it: what it says when it starts, what it tells of itself, how it stops."""

import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from server.keyfile import Limits, add_key
from server.listener import _with_what
from tests.support.bystander import unharmed
from tests.support.network import certificate
from tests.support.pictures import encoded, ramp
from tests.support.service import RunningService, running_service

PICTURE = encoded(ramp(24, 32), "PNG")
FEW_FILES = ("sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service")) as service:
        yield service


def fourfold(*arguments: str) -> str:
    command = [sys.executable, "-m", "server.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_start_is_told_in_one_line(service: RunningService) -> None:
    (line,) = [line for line in service.log if "Fourfold serves" in line]
    assert re.search(rf"Fourfold serves {service.url} with [a-z-]+-x4 on [a-z-]+ (fp32|bf16|fp16|int8)$", line)


def test_a_service_whose_engine_crashed_at_its_start_starts_all_the_same() -> None:
    assert _with_what({}) == "without an engine so far"


def test_that_everyone_on_this_machine_gets_in_is_told(service: RunningService) -> None:
    assert any("no API keys are configured: only this machine reaches it" in line for line in service.log)


def test_it_lives_and_is_ready(service: RunningService) -> None:
    for path in ("/health/live", "/health/ready"):
        answer = httpx.get(service.url + path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_models_are_those_of_the_command(service: RunningService) -> None:
    assert httpx.get(f"{service.url}/v1/models").json() == json.loads(fourfold("models", "--json"))


def test_engines_are_those_of_the_command(service: RunningService) -> None:
    told = json.loads(fourfold("engines", "--json"))
    assert httpx.get(f"{service.url}/v1/engines", timeout=60).json() == told
    libraries = Path(f"/proc/{service.pid}/maps").read_text()
    assert "libopenvino" not in libraries
    assert "libonnxruntime" not in libraries


def test_metrics_are_what_prometheus_reads(service: RunningService) -> None:
    assert httpx.get(f"{service.url}/metrics").headers["Content-Type"].startswith("text/plain; version=")
    httpx.get(f"{service.url}/nothing")
    metrics = service.metrics()
    assert metrics['fourfold_rejected_total{reason="not_found"}'] >= 1
    assert any(name.startswith("fourfold_engine_info{") for name in metrics)


def test_the_document_says_what_there_is(service: RunningService) -> None:
    assert "swagger" in httpx.get(f"{service.url}/docs").text
    document = httpx.get(f"{service.url}/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            where = f"{method} {path}"
            assert about["summary"], where
            assert about["description"], where
            assert about["tags"], where
            refusals = {status for status in about["responses"] if status >= "400"}  # "default" too
            assert "401" in refusals or path == "/health/live", where
            for status in refusals:
                schema = about["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, f"{where} {status}"


def test_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "IP:127.0.0.1")
    no_key = running_service(tmp_path, tls_cert=cert, tls_key=cert)
    with pytest.raises(AssertionError, match="FOURFOLD_TLS_CERT and FOURFOLD_TLS_KEY name no PEM certificate"), no_key:
        pass
    context = ssl.create_default_context(cafile=str(cert))
    with running_service(tmp_path, context=context, tls_cert=cert, tls_key=key) as service:
        assert service.url.startswith("https://")
        assert httpx.get(f"{service.url}/health/ready", verify=context).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(service.url.replace("https", "http"))


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1", "http://localhost:1"])
def test_pages_of_strangers_are_kept_out(origin: str, service: RunningService) -> None:
    for method, path in (("POST", "/v1/images"), ("POST", "/v1/videos"), ("DELETE", "/v1/videos/x")):
        refused = httpx.request(method, service.url + path, content=PICTURE, headers={"Origin": origin})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    with pytest.raises(InvalidStatus) as caught, connect(f"{service.ws_url}/v1/stream", origin=Origin(origin)):
        pass
    assert caught.value.response.status_code == 403


def test_our_own_pages_may(service: RunningService) -> None:
    answer = httpx.post(f"{service.url}/v1/images?model=bicubic", content=PICTURE, headers={"Origin": service.url}, timeout=60)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("localhost", 200),
        ("127.0.0.1:99", 200),
        ("[::1]:80", 200),
        ("[", 200),
        (":", 200),
    ],
)
def test_a_name_that_was_made_to_point_here_is_none_of_ours(host: str, status: int, service: RunningService) -> None:
    assert httpx.get(f"{service.url}/v1/models", headers={"Host": host}).status_code == status


def slow_upload(service: RunningService) -> socket.socket:
    """A request whose body is not complete yet."""
    sock = socket.create_connection((service.host, service.port), timeout=60)
    head = f"POST /v1/images?model=bicubic HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PICTURE)}\r\nConnection: close\r\n\r\n"
    sock.sendall(head.encode() + PICTURE[:20])
    time.sleep(0.3)
    return sock


def test_sigterm_lets_work_end_and_takes_no_more(tmp_path: Path) -> None:
    with running_service(tmp_path) as service, slow_upload(service) as sock, httpx.Client(base_url=service.url) as client:
        children = service.descendants()
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        refused = client.post("/v1/images", content=PICTURE)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "restart")
        assert int(refused.headers["Retry-After"]) > 0
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
        with connect(f"{service.ws_url}/v1/stream") as websocket:
            assert json.loads(websocket.recv())["code"] == "restart"
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        sock.sendall(PICTURE[20:])
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert service.process.wait(30) == 0
    assert gone(children)
    assert "Traceback" not in "\n".join(service.log)


def test_sigterm_does_not_wait_for_ever(tmp_path: Path) -> None:
    with running_service(tmp_path, shutdown_grace_seconds=1, body_timeout_seconds=60) as service, slow_upload(service) as sock:
        assert service.stop() == 0
        with suppress(ConnectionResetError):
            assert b"200 OK" not in sock.recv(65536)


def test_ctrl_c_stops_too(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        children = service.descendants()
        assert children
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(30) == 130
    assert gone(children)


def test_children_do_not_outlive_a_service_that_is_killed(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        children = service.descendants()
        assert children
        service.process.kill()
        service.process.wait()
        assert gone(children)


def gone(processes: list[int]) -> bool:
    """Whether none of them runs, within a while."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(_runs(process) for process in processes):
            return True
        time.sleep(0.1)
    return False


def _runs(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_few_descriptors_mean_503_or_waiting_not_the_end(tmp_path: Path) -> None:
    with running_service(tmp_path, prefix=FEW_FILES, header_timeout_seconds=3) as service:
        with ExitStack() as stack:
            for _ in range(100):  # more than there are descriptors; they say nothing
                stack.enter_context(socket.create_connection((service.host, service.port), timeout=30))
            answers = [_status(service) for _ in range(5)]
        assert set(answers) <= {200, 503, None}
        deadline = time.monotonic() + 30
        while _status(service) != 200:
            assert time.monotonic() < deadline, "the service does not recover"
            time.sleep(0.2)
        with unharmed(service):
            pass
        assert "out of system resource" not in "\n".join(service.log)


def _status(service: RunningService) -> int | None:
    """Of a picture; None if there was no answer."""
    try:
        answer = httpx.post(f"{service.url}/v1/images?model=bicubic", content=PICTURE, timeout=5)
    except httpx.TransportError:
        return None
    if answer.status_code == 503:
        assert answer.json()["error"]["code"] == "busy"
    return answer.status_code


def test_too_many_connections_are_told_so(tmp_path: Path) -> None:
    with running_service(tmp_path, prefix=FEW_FILES) as service, ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=service.url, timeout=30)) for _ in range(10)]
        answers = [client.get("/v1/models") for client in clients]  # each keeps its connection
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 0 < len(refused) < len(answers)
        for answer in refused:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
            assert answer.headers["Retry-After"] == "1"


def test_requests_drawn_from_the_document_find_no_fault(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", "root", ["admin"], None, Limits())
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", "--no-color", "--continue-on-failure", "--seed", "1"]
    checks = ["--exclude-checks", "positive_data_acceptance"]  # what a body must be to be a video, no schema says
    with running_service(tmp_path, key=key, api_keys_file=tmp_path / "keys.json") as service, unharmed(service):
        about = ["--max-examples", "10", "-H", f"Authorization: Bearer {key}", f"{service.url}/openapi.json"]
        result = subprocess.run(
            [*command, *checks, *about], cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False
        )
    assert result.returncode == 0, result.stdout[-5000:]
