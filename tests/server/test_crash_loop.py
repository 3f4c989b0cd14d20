"""An engine that dies again and again, in the real service, while someone streams and someone asks for models."""

import os
import signal
import time
from pathlib import Path

import httpx

from tests.support.bystander import watched
from tests.support.live import plain
from tests.support.service import engine_pid, running_service
from tests.support.stream import Client, client

DEATHS = 7  # the first five restarts are free, the sixth waits a second


def test_the_service_outlives_an_engine_that_does_not_live(tmp_path: Path) -> None:
    with (
        running_service(tmp_path, engine="openvino", precision="fp32") as service,
        watched(service),
        httpx.Client(base_url=service.url, timeout=30) as http,
        client(service) as stream,
    ):
        stream.start()
        seen, number, unready = set[int](), 0, False
        deadline = time.monotonic() + 120
        while len(seen) < DEATHS or models(stream)[-1] != "xlsr":
            assert time.monotonic() < deadline
            engine = engine_pid(service)
            if engine and engine not in seen and len(seen) < DEATHS:
                seen.add(engine)
                os.kill(engine, signal.SIGKILL)
            stream.send(number, plain(number % 200).tobytes())
            stream.answer()
            number += 1
            unready |= http.get("/health/ready").status_code == 503
            assert http.get("/health/live").status_code == 200 == http.get("/v1/models").status_code
        stream.finish(number)
        assert stream.answered == list(range(number))  # each once, in order
        assert unready and service.metrics()["fourfold_engine_restarts_total"] >= DEATHS
        assert service.process.poll() is None


def models(stream: Client) -> list[str]:
    """That the stream was switched to."""
    return [event["model"] for event in stream.events if event["type"] == "model"] or ["xlsr"]
