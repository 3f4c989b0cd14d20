"""The service's log as an operator's tools read it: JSON, with the ids by which one line is found by another."""

import json
from pathlib import Path

import httpx
from websockets.sync.client import connect

from tests.support.service import running_service


def test_every_line_is_json_and_says_whose_it_is(tmp_path: Path) -> None:
    with running_service(tmp_path, log_format="json", ready=False) as service:
        answer = httpx.get(f"{service.url}/v1/videos/none", timeout=30)
        with connect(f"{service.ws_url}/v1/stream") as socket:
            socket.send(json.dumps({"type": "start", "model": "bicubic", "input": {"format": "jpeg"}}))
            session = json.loads(socket.recv(timeout=60))["session"]
        service.stop()
    entries = [json.loads(line) for line in service.log]
    (request,) = [entry for entry in entries if entry.get("request") == answer.headers["X-Request-Id"]]
    assert "GET /v1/videos/{id}" in request["message"] and " 404 " in request["message"]
    streams = [entry for entry in entries if entry.get("request") == session and entry.get("stream") == "websocket-1"]
    assert ["starts" in streams[0]["message"], "ended" in streams[-1]["message"]] == [True, True]
    assert {"time", "level", "logger", "message", "pid"} <= entries[0].keys()
