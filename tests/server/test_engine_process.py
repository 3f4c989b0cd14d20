"""The engine process of a service: it is there, it is watched, it comes back."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

import server.engine_process
from engines.client import RemoteEngine
from engines.host import EngineRequest
from engines.runner import EngineDeadError, EngineError
from models.colour import Colour
from server.engine_process import EngineStats, EngineSupervisor, _backoff
from server.settings import Settings

REQUEST = EngineRequest("bicubic-x4-yuv420", 32, 24, Colour("bt601", "limited"), "latency", 2)


@contextmanager
def running(tmp_path: Path, **listeners: Any) -> Iterator[EngineSupervisor]:
    settings = Settings(model="bicubic", engine="openvino", precision="fp32", data_folder=tmp_path)
    supervisor = EngineSupervisor(settings, **listeners)
    with start_blocking_portal() as loop:
        loop.call(supervisor.start)
        yield supervisor
        loop.call(supervisor.stop)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_is_ready_once_it_has_answered_and_says_what_it_is(tmp_path: Path) -> None:
    with running(tmp_path) as engine:
        assert engine.ready
        assert (engine.info["title"], engine.info["backend"], engine.info["precision"]) == ("bicubic-x4", "openvino", "fp32")
    assert not Path(f"/proc/{engine.pid}").exists()


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_ends_is_replaced(tmp_path: Path, fault: signal.Signals) -> None:
    restarts: list[bool] = []
    with running(tmp_path, on_restart=lambda: restarts.append(True)) as engine:
        first = engine.pid
        with RemoteEngine(engine.address, REQUEST) as client:
            os.kill(first, fault)
            with pytest.raises(EngineDeadError):
                while True:
                    client.submit(client.pool.slots[0]).result(10)
        until(lambda: engine.pid != first and works(engine) and engine.ready)
        assert restarts == [True]


def test_a_process_that_hangs_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path) as engine:
        monkeypatch.setattr(server.engine_process, "HANG_SECONDS", 0.5)
        first = engine.pid
        os.kill(first, signal.SIGSTOP)
        until(lambda: engine.pid != first and works(engine))
        assert not Path(f"/proc/{first}").exists()


def test_stats_tell_what_was_computed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.engine_process, "PROBE_SECONDS", 0.05)
    seen: list[EngineStats] = []
    with running(tmp_path, on_stats=seen.append):
        until(lambda: len(seen) > 3)
    assert all(stats == EngineStats(0, {1: 1}) for stats in seen)  # its own frame, once each


def test_what_cannot_be_had_fails_the_start_with_the_reason(tmp_path: Path) -> None:
    supervisor = EngineSupervisor(Settings(engine="tensorrt", data_folder=tmp_path))
    with start_blocking_portal() as loop, pytest.raises(EngineError, match="NVIDIA"):
        loop.call(supervisor.start)


def works(supervisor: EngineSupervisor) -> bool:
    try:
        with RemoteEngine(supervisor.address, REQUEST) as client:
            return client.submit(client.pool.slots[0]).result(10) > 0
    except EngineDeadError:
        return False


def test_starts_are_free_at_first_and_then_rarer_and_rarer() -> None:
    assert [_backoff([0.0] * n, 10.0) for n in range(12)] == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30]
    assert _backoff([0.0] * 12, 100.0) == 0
