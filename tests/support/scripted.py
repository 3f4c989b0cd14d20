"""A server that answers by a script, for what a real service does too rarely: refusals that pass, connections that are cut."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer; without a status, the connection is cut instead."""

    status: int | None
    body: Any = None  # JSON, or bytes as they are
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: int, code: str, retry_after: int | None = None) -> Answer:
    """An error as the service words it."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Answer(status, {"error": {"code": code, "message": f"this is {code}", "request_id": "4f1d"}}, headers)


@dataclass
class Scripted:
    """A server that runs."""

    url: str
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)  # method, path and body
    headers: list[Mapping[str, str]] = field(default_factory=list)  # of these


@contextmanager
def scripted(answers: Sequence[Answer]) -> Iterator[Scripted]:
    """Gives these answers in turn, the last one for ever."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            running.requests.append((self.command, self.path, self._body()))
            running.headers.append(dict(self.headers))
            answer = left.pop(0) if len(left) > 1 else left[0]
            if answer.status is None:
                self.connection.close()
                self.close_connection = True
                return
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            headers = {"Content-Length": str(len(body)), **answer.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = headers["Content-Length"] != str(len(body))  # it promised more than it gave

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - names of the library

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - a name of the library
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Scripted(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
