"""Each refusal becomes the error of its kind; what may be tried again is, and nothing else; the key is never shown."""

import asyncio
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fourfold_client import (
    AsyncClient,
    AuthenticationError,
    BusyError,
    Client,
    ConflictError,
    ConnectionLostError,
    EngineError,
    FourfoldError,
    FrameFailed,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    ServiceError,
    TooLargeError,
)
from fourfold_client.errors import KIND_OF_CODE
from server.errors import CODES
from server.keyfile import Limits, add_key
from tests.support.clips import write
from tests.support.pictures import encoded, ramp
from tests.support.scripted import Answer, refusal, scripted
from tests.support.service import RunningService, running_service

SMALL = encoded(ramp(16, 16), "PNG")
MODELS = Answer(200, {"models": []})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """API keys by name, in the file that `path` names."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    admin = add_key(path, "admin", ["admin"], None, Limits())
    pictures = add_key(path, "pictures", ["images"], None, Limits())
    single = add_key(path, "single", ["streams"], None, Limits(streams=1))
    return {"path": str(path), "admin": admin, "pictures": pictures, "single": single}


@pytest.fixture(scope="module")
def guarded(keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with keys."""
    folder = tmp_path_factory.mktemp("guarded")
    with running_service(folder, key=keys["admin"], api_keys_file=keys["path"]) as running:
        yield running


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def one_frame(client: Client, **options: Any) -> Any:
    with client.stream([SMALL], **{"input": "png", "model": "bicubic"} | options) as answers:
        return next(answers)


CALLS: dict[str, Callable[[Client], Any]] = {
    "image": lambda client: client.upscale_image(SMALL, model="bicubic"),
    "models": lambda client: client.models(),
    "stream": one_frame,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("key", [None, "wrong-canary"])
def test_no_key_and_a_wrong_one(guarded: RunningService, call: Callable[[Client], Any], key: str | None) -> None:
    with Client(guarded.url, api_key=key) as client, pytest.raises(AuthenticationError) as caught:
        call(client)
    assert (caught.value.code, bool(caught.value.request_id)) == ("unauthorized", True)
    assert caught.value.request_id in str(caught.value)
    assert "canary" not in "".join(traceback.format_exception(caught.value)) + repr(client)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_key_opens(guarded: RunningService, keys: dict[str, str], monkeypatch: Any, call: Callable[[Client], Any]) -> None:
    monkeypatch.setenv("FOURFOLD_API_KEY", keys["admin"] + "\n")
    with Client(guarded.url) as client:
        assert call(client)
    assert keys["admin"] not in repr(client) + repr(vars(client)) + repr(vars(client._twin))


def test_a_key_without_the_scope(guarded: RunningService, keys: dict[str, str], tmp_path: Path) -> None:
    with Client(guarded.url, api_key=keys["pictures"]) as client:
        with pytest.raises(PermissionDeniedError, match="streams"):
            one_frame(client)
        with pytest.raises(PermissionDeniedError, match="videos"):
            client.upscale_video(write(tmp_path / "clip.mp4"), tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_second_stream_of_a_key_that_may_have_one(guarded: RunningService, keys: dict[str, str]) -> None:
    options: dict[str, Any] = {"input": "png", "model": "bicubic", "late": "keep", "in_flight": 1}
    with Client(guarded.url, api_key=keys["single"]) as client, client.stream([SMALL] * 99, **options) as first:
        assert next(first).sequence == 0
        with pytest.raises(BusyError) as caught:
            one_frame(client)
        assert (caught.value.code, caught.value.retry_after) == ("quota", 5)
        assert next(first).sequence == 1


def test_an_unknown_model(service: RunningService) -> None:
    with Client(service.url) as client:
        for call in (lambda: client.upscale_image(SMALL, model="nonesuch"), lambda: one_frame(client, model="nonesuch")):
            with pytest.raises(NotFoundError, match="nonesuch") as caught:
                call()
            assert caught.value.code == "unknown_model"


def test_input_that_is_none(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with Client(service.url) as client:
        with pytest.raises(InvalidInputError, match="PNG") as caught:
            client.upscale_image(b"no picture")
        assert caught.value.code == "unsupported_type"
        with pytest.raises(InvalidInputError):
            client.upscale_image(SMALL, scale=7)
        with pytest.raises(InvalidInputError) as caught:
            client.upscale_video(tmp_path / "text.mp4", tmp_path / "out.mp4")
        assert caught.value.code == "container"
        with pytest.raises(InvalidInputError, match="width and height"):
            one_frame(client, input="rgb24")
        with pytest.raises(ValueError, match="in_flight"):
            client.stream([], in_flight=0)
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


def test_a_frame_that_is_none_is_told_and_the_others_go_on(service: RunningService) -> None:
    events: list[Any] = []
    with Client(service.url) as client:
        frames = [SMALL, b"no picture", SMALL]
        with client.stream(frames, input="png", model="bicubic", late="keep", in_flight=1, on_event=events.append) as answers:
            assert [answer.sequence for answer in answers] == [0, 2]
    [failed] = [event for event in events if isinstance(event, FrameFailed)]
    assert (failed.sequence, type(failed.error)) == (1, InvalidInputError)


def test_what_is_too_large(service: RunningService) -> None:
    with Client(service.url) as client:
        with pytest.raises(TooLargeError) as caught:
            client.upscale_image(bytes((1 << 20) + 1))
        assert caught.value.code == "too_large"
        with pytest.raises(TooLargeError), client.stream([bytes((1 << 20) + 1)]) as answers:
            next(answers)


def test_nobody_listens(nowhere: str, tmp_path: Path) -> None:
    with Client(nowhere, api_key="canary", retries=1) as client:
        calls = [*CALLS.values(), lambda client: client.upscale_video(write(tmp_path / "a.mp4"), tmp_path / "b.mp4")]
        for call in calls:
            with pytest.raises(ConnectionLostError, match=nowhere) as caught:
                call(client)
            assert caught.value.code == "unreachable"
            assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(409, "conflict"), ConflictError),
        (refusal(503, "engine_unavailable"), EngineError),
        (refusal(500, "internal"), ServiceError),
        (refusal(422, "of_tomorrow"), InvalidInputError),
        (refusal(429, "of_tomorrow"), BusyError),
        (refusal(503, "busy"), BusyError),
        (Answer(502, b"<html>Bad gateway</html>"), ConnectionLostError),
        (Answer(200, b"<html>Welcome</html>"), ConnectionLostError),
        (Answer(418, {"error": "teapot"}), InvalidInputError),
        (Answer(307, b"", {"Location": "http://127.0.0.1:1/"}), InvalidInputError),
    ],
)
def test_what_other_answers_become(answer: Answer, kind: type[FourfoldError]) -> None:
    with scripted([answer]) as server, Client(server.url, retries=0) as client, pytest.raises(FourfoldError) as caught:
        client.models()
    assert type(caught.value) is kind


def test_every_code_of_the_service_has_a_kind() -> None:
    assert [code for code in CODES if code not in KIND_OF_CODE] == []


@pytest.mark.anyio
@pytest.mark.parametrize("first", [refusal(503, "busy", 0), refusal(429, "rate", 0), Answer(None), Answer(502, b"")])
async def test_reading_is_tried_again(first: Answer) -> None:
    with scripted([first, first, MODELS]) as server:
        async with AsyncClient(server.url) as client:
            assert await client.models() == []
        assert len(server.requests) == 3


@pytest.mark.anyio
async def test_a_picture_is_sent_again_whole() -> None:
    with scripted([Answer(None), refusal(503, "restart", 0), Answer(200, b"picture")]) as server:
        async with AsyncClient(server.url) as client:
            assert (await client.upscale_image(SMALL)).data == b"picture"
        assert [body for _, _, body in server.requests] == [SMALL] * 3


@pytest.mark.anyio
async def test_a_video_is_sent_again_only_if_it_was_not_taken(tmp_path: Path) -> None:
    source = tmp_path / "video"
    source.write_bytes(bytes(3 << 20))
    for cut, sent in ((Answer(None), 2), (refusal(503, "busy", 0), 3)):
        with scripted([refusal(503, "busy", 0), cut, refusal(422, "unreadable")]) as server:
            async with AsyncClient(server.url) as client:
                with pytest.raises((ConnectionLostError, InvalidInputError)):
                    await client.upscale_video(source, tmp_path / "out.mp4")
            assert [len(body) for _, _, body in server.requests] == [3 << 20] * sent


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [refusal(503, "busy"), refusal(500, "internal"), refusal(503, "busy", 999)])
async def test_what_gives_no_hope_is_not_tried_again(answer: Answer) -> None:
    with scripted([answer]) as server:
        async with AsyncClient(server.url) as client:
            with pytest.raises(FourfoldError):
                await client.models()
        assert len(server.requests) == 1


@pytest.mark.anyio
async def test_a_service_that_says_nothing() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silence, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with AsyncClient(f"http://127.0.0.1:{port}", timeout=0.2, retries=0) as client:
            with pytest.raises(ConnectionLostError) as caught:
                await client.models()
    assert caught.value.code == "timeout"
