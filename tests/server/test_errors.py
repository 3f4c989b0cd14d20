"""Every error has one body form, whatever caused it, and tells nothing that is nobody's business."""

import io
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from engines.logs import ConsoleFormatter, redacted
from server.app import create_app
from server.errors import CODES, ServiceError
from server.settings import Settings

PACKAGE = Path(__file__).parents[2] / "server"


class Person(BaseModel):
    age: int


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """The service, not running, with routes that fail."""
    app = create_app(Settings(data_folder=tmp_path))

    @app.get("/fails")
    async def fails() -> None:
        raise KeyError("/etc/passwd and ff_canary-canary-canary")

    @app.get("/fails/late")
    async def fails_late() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"half an answer"
            raise RuntimeError

        return StreamingResponse(body())

    @app.get("/refuses")
    async def refuses() -> None:
        raise ServiceError("quota", "you have 3 of 3", retry_after=7)

    @app.get("/http")
    async def http(status: int) -> None:
        raise HTTPException(status, "words")

    @app.post("/people")
    async def people(person: Person) -> int:
        return person.age

    @app.websocket("/stream")
    async def stream(websocket: WebSocket) -> None:
        await websocket.accept()
        raise ServiceError("too_large", "9 bytes; 8 are allowed")

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        yield client


def checked(answer: httpx.Response, status: int, code: str) -> str:
    """The message of an error that has the form of all errors."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    error: dict[str, str] = answer.json()["error"]
    assert error.keys() == {"code", "message", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == answer.headers["X-Request-Id"]
    return error["message"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nothing", None, 404, "not_found"),
        ("GET", "/v1/../../etc/passwd", None, 404, "not_found"),
        ("GET", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", None, 404, "not_found"),
        ("DELETE", "/v1/models", None, 405, "method_not_allowed"),
        ("GET", "/http?status=416", None, 416, "range"),
        ("GET", "/http?status=418", None, 400, "bad_request"),
        ("GET", "/http?status=many", None, 422, "invalid"),
        ("GET", "/http", None, 422, "invalid"),
        ("POST", "/people", b"{", 400, "bad_request"),
        ("POST", "/people", b'{"age": "old"}', 422, "invalid"),
        ("POST", "/people", b"\xff\xfe", 400, "bad_request"),
        ("GET", "/refuses", None, 429, "quota"),
        ("GET", "/fails", None, 500, "internal"),
    ],
)
async def test_one_form_for_all(
    method: str, path: str, body: bytes | None, status: int, code: str, client: httpx.AsyncClient
) -> None:
    answer = await client.request(method, path, content=body, headers={"Content-Type": "application/json"})
    message = checked(answer, status, code)
    assert not re.search(r"Traceback|File \"|/etc/|site-packages|ff_canary", answer.text)
    assert message[0].islower() or message[0] == "9"


@pytest.mark.anyio
async def test_what_helps_is_in_the_headers(client: httpx.AsyncClient) -> None:
    assert (await client.get("/refuses")).headers["Retry-After"] == "7"
    assert (await client.delete("/v1/models")).headers["Allow"] == "GET"
    assert (await client.put("/v1/videos")).headers["Allow"] == "GET, POST"


@pytest.mark.anyio
async def test_a_wrong_parameter_is_named_with_its_value(client: httpx.AsyncClient) -> None:
    message = checked(await client.get("/http?status=many"), 422, "invalid")
    assert "status" in message
    assert "'many'" in message
    assert len(checked(await client.get("/http?status=" + 5000 * "x"), 422, "invalid")) < 200


@pytest.mark.anyio
@pytest.mark.parametrize("value", ["../../etc/passwd", "$(reboot)", "a;b|c", "a%0d%0aSet-Cookie:%20x=1", "%00"])
async def test_odd_names_are_refused(value: str, client: httpx.AsyncClient) -> None:
    for path in (f"/v1/images?model={value}", f"/v1/videos?model={value}", f"/v1/images?scale={value}"):
        answer = await client.post(path, content=b"x", headers={"Content-Type": "image/png"})
        assert answer.status_code in (404, 422, 503), answer.text
        assert "Set-Cookie" not in answer.headers


@pytest.mark.anyio
async def test_half_an_answer_does_not_look_whole(app: FastAPI) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": "GET", "path": "/fails/late"}
    scope |= {"query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert [message.get("more_body") for message in sent] == [None, True]  # the server cuts the connection now


@pytest.mark.anyio
async def test_a_websocket_is_told_and_closed(app: FastAPI) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/stream", "query_string": b"", "headers": [], "subprotocols": []}
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert '"type":"error","code":"too_large","message":"9 bytes; 8 are allowed"' in sent[1]["text"]
    assert sent[2]["code"] == 1009


@pytest.mark.anyio
async def test_every_error_that_was_answered_is_counted(app: FastAPI, client: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/nothing", "/fails", "/refuses", "/health/live"):
        await client.get(path)
    registry = app.state.service.metrics.registry
    counts = {code: registry.get_sample_value("fourfold_rejected_total", {"reason": code}) for code in CODES}
    assert {code: count for code, count in counts.items() if count} == {"not_found": 2, "internal": 1, "quota": 1}


@pytest.mark.anyio
async def test_a_fault_is_one_line_in_the_log_without_what_it_quotes(client: httpx.AsyncClient) -> None:
    handler = logging.StreamHandler(written := io.StringIO())
    handler.setFormatter(ConsoleFormatter())
    logging.getLogger("server").addHandler(handler)
    try:
        answer = await client.get("/fails")
    finally:
        logging.getLogger("server").removeHandler(handler)
    (line,) = [line for line in written.getvalue().splitlines() if " ERROR " in line]
    assert line.endswith(f" request={answer.headers['X-Request-Id']}")
    assert re.search(r"KeyError at test_errors.py:\d+", line)
    assert "passwd" not in line


def test_a_log_line_stays_one_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "a\r\nb\x1b[31m ff_0123456789abcdef", None, None)
    line = ConsoleFormatter().format(record)
    assert line.endswith("a\\r\\nb\\x1b[31m ff_…")


def test_what_looks_like_a_key_is_unreadable() -> None:
    assert redacted("Bearer ff_0123456789-_abc, ff_short") == "Bearer ff_…, ff_short"


def test_codes_are_what_http_and_websockets_know() -> None:
    for name, code in CODES.items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert 400 <= code.status < 600
        assert code.close in (1003, 1008, 1009, 1011, 1012, 1013)
        assert code.meaning.endswith(".")


def test_every_code_is_used() -> None:
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "errors.py")
    assert [name for name in CODES if f'"{name}"' not in source] == []


def test_the_documentation_names_every_code(app: FastAPI) -> None:
    document = str(app.openapi())
    assert "ErrorBody" in document
    for code in ("unauthorized", "too_large", "engine_unavailable"):
        assert f"`{code}`" in document
