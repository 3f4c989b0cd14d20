"""What `/metrics` of the real service says of requests, jobs and the disk; Prometheus' own tool finds no fault in it."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import clips
from tests.support.live import plain
from tests.support.pictures import encoded, ramp
from tests.support.service import RunningService, running_service
from tests.support.stream import client

FRAMES = 12


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), engine="openvino", precision="fp32") as running:
        yield running


@pytest.fixture(scope="module")
def used(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> RunningService:
    """The service, after one request of every kind, and one of a stranger."""
    clip = clips.write(tmp_path_factory.mktemp("clips") / "short.mp4", frames=FRAMES)
    with httpx.Client(base_url=service.url, timeout=60) as http, client(service) as stream:
        http.post("/v1/images?scale=2&model=bicubic", content=encoded(ramp(16, 16), "PNG")).raise_for_status()
        http.post("/v1/videos?scale=2&model=bicubic", content=clip.read_bytes()).raise_for_status()
        assert http.get("/v1/videos/somebody-elses").status_code == 404 == http.get("/wp-login.php").status_code
        stream.start()
        stream.send(0, plain(1).tobytes())
        stream.answer()
        until(service, 'fourfold_jobs{state="done"}', 1)
        stream.finish(1)
    return service


def until(service: RunningService, name: str, least: float) -> dict[str, float]:
    """The metrics, once `name` is at least that."""
    deadline = time.monotonic() + 60
    while (metrics := service.metrics()).get(name, -1.0) < least:
        assert time.monotonic() < deadline, (name, metrics.get(name))
        time.sleep(0.1)
    return metrics


def test_requests_are_counted_by_their_routes(used: RunningService) -> None:
    metrics = used.metrics()

    def requests(method: str, route: str, status: int) -> float:
        return metrics.get(f'fourfold_http_requests_total{{method="{method}",route="{route}",status="{status}"}}', 0.0)

    assert requests("POST", "/v1/images", 200) == 1
    assert requests("POST", "/v1/videos", 202) == 1
    assert requests("GET", "/v1/videos/{id}", 404) == 1
    assert requests("GET", "/v1/stream", 101) == 1
    assert requests("GET", "(none)", 404) == 1
    assert metrics['fourfold_http_request_seconds_count{method="POST",route="/v1/images"}'] == 1
    assert not any("wp-login" in name or "somebody" in name for name in metrics)


def test_jobs_frames_and_the_disk(used: RunningService) -> None:
    metrics = used.metrics()
    assert metrics['fourfold_jobs{state="done"}'] == 1
    assert metrics['fourfold_jobs{state="failed"}'] == 0
    assert metrics['fourfold_frames_total{kind="video",outcome="delivered"}'] == FRAMES
    assert 0 < metrics["fourfold_disk_free_bytes"] < metrics["fourfold_disk_size_bytes"]
    assert 0 < metrics["fourfold_storage_used_bytes"] < metrics["fourfold_storage_limit_bytes"]
    assert metrics["process_start_time_seconds"] < time.time()


def test_the_engine_is_ready_and_streams_have_room(used: RunningService) -> None:
    metrics = until(used, "fourfold_engine_ready", 1)
    assert metrics['fourfold_streams_limit{kind="websocket"}'] == 64
    assert any(name.startswith("fourfold_build_info{") for name in metrics)


def test_a_card_is_shown_where_there_is_one(used: RunningService) -> None:
    shown = any(name.startswith("fourfold_gpu_memory_bytes{") for name in used.metrics())
    assert shown == Path("/proc/driver/nvidia/version").exists()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed; make test installs it")
def test_prometheus_finds_no_fault_in_them(used: RunningService) -> None:
    told = httpx.get(f"{used.url}/metrics").text
    checked = subprocess.run(["promtool", "check", "metrics"], input=told, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
