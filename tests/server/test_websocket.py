"""Our WebSocket protocol under uvicorn, with handlers that are slow or in a hurry, and clients that are worse."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from server.websocket import HURRY, Protocol

PING_SECONDS = 0.5
BIG = bytes(1 << 20)


class Handler:
    """What is done with each WebSocket; notes what became of it."""

    def __init__(self) -> None:
        self.received = 0
        self.over = threading.Event()

    async def slow(self, websocket: WebSocket) -> None:
        """Takes its time for each message."""
        await websocket.accept()
        while await websocket.receive_bytes():
            await asyncio.sleep(0.05)
            self.received += 1
            await websocket.send_text(str(self.received))

    async def fast(self, websocket: WebSocket) -> None:
        """Takes what comes."""
        await websocket.accept()
        while await websocket.receive_bytes():
            self.received += 1

    async def generous(self, websocket: WebSocket) -> None:
        """Sends more than the client takes, and loses patience."""
        await websocket.accept()
        try:
            async with asyncio.timeout(0.3):
                while True:
                    await websocket.send_bytes(BIG)
        except TimeoutError:
            websocket.scope["state"][HURRY] = True
            await websocket.send_text("enough")
            await websocket.close(1013)

    async def serve(self, websocket: WebSocket) -> None:
        try:
            await getattr(self, websocket.url.path[1:])(websocket)
        except WebSocketDisconnect:
            pass
        finally:
            self.over.set()


class Brisk(Protocol):
    """Does not wait long for a client to close."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.close_timeout = 1.0


@contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """uvicorn in a thread; gives the address."""
    app = Starlette(routes=[WebSocketRoute("/{what}", handler.serve)])
    options: dict[str, Any] = {"ws_ping_interval": PING_SECONDS, "ws_ping_timeout": PING_SECONDS, "ws_max_size": 1 << 20}
    config = uvicorn.Config(app, ws=Brisk, ws_per_message_deflate=False, log_config=None, lifespan="off", **options)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def open_client(address: str, **options: Any) -> ClientConnection:
    return connect(address, compression=None, max_size=None, ping_interval=None, close_timeout=2, **options)


def frame(payload: bytes, opcode: int = 2) -> bytes:
    """A short WebSocket frame as a client sends it, masked with zeros."""
    return struct.pack("!BBI", 0x80 | opcode, 0x80 | len(payload), 0) + payload


@contextmanager
def raw_client(address: str, what: str) -> Iterator[socket.socket]:
    """A client that does nothing by itself: not even answer a ping."""
    host, port = address.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), 20) as client:
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
        client.sendall(
            f"GET /{what} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n".encode()
        )
        assert client.recv(12) == b"HTTP/1.1 101"
        yield client


def received(client: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    pieces = []
    with suppress(ConnectionResetError):
        while piece := client.recv(1 << 20):
            pieces.append(piece)
    return b"".join(pieces)


def test_an_answer_to_a_ping_may_stand_behind_what_we_have_not_read() -> None:
    """Forty messages that take two seconds: much longer than a pong may take."""
    handler = Handler()
    with serving(handler) as address, open_client(f"{address}/slow") as client:
        for _ in range(40):
            client.send(bytes(1 << 18))
        answers = [client.recv(20) for _ in range(40)]
    assert answers == [str(number) for number in range(1, 41)]


@pytest.mark.parametrize("what", ["fast", "generous"])
def test_a_client_that_answers_no_ping_is_cut_off(what: str) -> None:
    handler = Handler()
    with serving(handler) as address, raw_client(address, what) as client:
        client.sendall(frame(b"x"))
        assert handler.over.wait(20)
        received(client)  # it ends


def test_whoever_reads_too_late_still_reads_why() -> None:
    handler = Handler()
    with serving(handler) as address, open_client(f"{address}/generous", max_queue=1) as client:
        assert handler.over.wait(20)
        messages = []
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                messages.append(client.recv(20))
    assert messages[-1] == "enough"
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1013


@pytest.mark.parametrize(
    "pieces", [[bytes(60 << 20)], [bytes(1 << 16)] * 960, [b"x"] * 20_000], ids=["plain", "pieces", "crumbs"]
)
def test_a_message_that_is_too_large_is_refused_while_it_is_sent(pieces: list[bytes]) -> None:
    handler = Handler()
    with serving(handler) as address, open_client(f"{address}/fast") as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.send(iter(pieces) if len(pieces) > 1 else pieces[0])
            client.recv(20)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1009
        assert handler.over.wait(20)
    assert handler.received == 0


def test_pings_are_not_answered_while_the_answers_are_not_read() -> None:
    handler = Handler()
    with serving(handler) as address, raw_client(address, "generous") as client:
        for _ in range(100):
            client.sendall(frame(bytes(125), opcode=9) * 100)
        assert handler.over.wait(20)
        assert received(client).count(b"\x8a\x7d" + bytes(125)) < 5000
