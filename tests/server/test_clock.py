"""The wall clock jumps by days, and no timer of the service takes notice."""

import os
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from tests.support import clips
from tests.support.bystander import unharmed
from tests.support.service import running_service
from tests.support.stream import Client

LIBRARIES = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), *Path("/usr/lib/faketime").glob("libfaketime.so.1")]


def test_jumps_of_the_wall_clock_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed; make system does it")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    for name, value in (faked | {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}).items():
        monkeypatch.setenv(name, value)
    with running_service(tmp_path, model="bicubic", engine="openvino", precision="fp32", job_retention_seconds=3600) as service:
        for name in faked:
            monkeypatch.delenv(name)
        assert b"libfaketime" in Path(f"/proc/{service.pid}/maps").read_bytes()
        with httpx.Client(base_url=service.url, timeout=60) as client:
            clip = clips.write(tmp_path / "clip.mp4", frames=3)
            job = client.post("/v1/videos?model=bicubic&scale=2", content=clip.read_bytes()).json()["id"]
            while client.get(f"/v1/videos/{job}").json()["state"] != "done":
                pass
            with unharmed(service), connect(f"{service.ws_url}/v1/stream") as socket:
                session, picture = Client(socket), np.zeros((24, 32, 3), np.uint8).tobytes()
                session.start(model="bicubic")
                for sequence, jump in enumerate(("+0", "+2d", "-1d", "+30d", "+0")):
                    replace(clock, jump)
                    session.send(sequence, picture)
                    header, _ = session.answer()
                    assert header.sequence == sequence and header.server_us < 30_000_000
                    assert client.get("/health/ready").status_code == 200
                session.finish(5)
            assert client.get(f"/v1/videos/{job}/content").status_code == 200


def replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)
