"""A client of `/v1/stream`, as plain as can be."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from server.streams.protocol import END, HEADER_BYTES, Header, parse_header
from tests.support.service import RunningService

WAIT_SECONDS = 60.0


class Client:
    """One session; keeps all that came."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.answers: list[tuple[Header, bytes]] = []

    def start(self, source: str = "rgb24", target: str = "rgb24", size: tuple[int, int] | None = (32, 24), **more: Any) -> None:
        """Sends the start message, and waits until frames can come."""
        sized = {"width": size[0], "height": size[1]} if size else {}
        words = {"type": "start", "model": "xlsr", "scale": 4, "late": "keep", "input": {"format": source, **sized}}
        self.socket.send(json.dumps(words | {"output": {"format": target}} | more))
        self.event("ready")

    def send(self, sequence: int, payload: bytes = b"", flags: int = 0, pts_us: int = 0) -> None:
        """One frame."""
        self.socket.send(Header(sequence, flags, pts_us).pack() + payload)

    def receive(self) -> tuple[Header, bytes] | dict[str, Any]:
        """The next message."""
        message = self.socket.recv(WAIT_SECONDS)
        if isinstance(message, str):
            self.events.append(json.loads(message))
            return self.events[-1]
        self.answers.append((parse_header(message), message[HEADER_BYTES:]))
        return self.answers[-1]

    def event(self, kind: str) -> dict[str, Any]:
        """The next message of a type."""
        while not (isinstance(message := self.receive(), dict) and message["type"] == kind):
            pass
        return message

    def answer(self) -> tuple[Header, bytes]:
        """The next frame."""
        while isinstance(message := self.receive(), dict):
            pass
        return message

    def finish(self, sequence: int) -> None:
        """Says that nothing follows, and takes in what is left."""
        self.send(sequence, flags=END)
        while not self.answer()[0].ends:
            pass
        assert self.close_code() == 1000

    def close_code(self) -> int | None:
        """What the server closes with; takes in all that comes before."""
        try:
            while True:
                self.receive()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None

    @property
    def error(self) -> str | None:
        """The code of the error that ended the session."""
        errors = [event["code"] for event in self.events if event["type"] == "error" and "sequence" not in event]
        return errors[-1] if errors else None

    @property
    def answered(self) -> list[int]:
        """Numbers of the frames that came back, in the order in which they did."""
        return [header.sequence for header, _ in self.answers if not header.ends]

    @property
    def dropped(self) -> list[int]:
        """Numbers of the frames that were reported dropped."""
        return [*self.dropped_for("late"), *self.dropped_for("queue_full")]

    def dropped_for(self, reason: str) -> list[int]:
        """Those that were dropped for this reason."""
        events = [event for event in self.events if event["type"] == "dropped" and event["reason"] == reason]
        return [number for event in events for number in event["sequence"]]


@contextmanager
def client(service: RunningService, **options: Any) -> Iterator[Client]:
    """Opens a WebSocket; `options` are those of the library."""
    defaults: dict[str, Any] = {
        "max_size": None,
        "compression": None,
        "additional_headers": service.headers,
        "close_timeout": 5,
    }
    with connect(f"{service.ws_url}/v1/stream", **defaults | options) as socket:
        yield Client(socket)
