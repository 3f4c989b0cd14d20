"""What every fault must leave alone: someone else's requests, and what the service holds."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from PIL import Image

from tests.support.service import RunningService

SETTLE_SECONDS = 30.0
MEMORY_BYTES = 48 * 1024**2
"""That the api process may have grown by: allocators keep some."""


@dataclass(frozen=True)
class Footprint:
    """What the api process holds."""

    descriptors: int
    children: int
    files: frozenset[str]  # in its data folder
    bytes: int  # of memory

    @classmethod
    def of(cls, service: RunningService) -> "Footprint":
        process = Path(f"/proc/{service.pid}")
        files = frozenset(str(path) for path in service.data_folder.rglob("*") if path.is_file() and "sqlite3" not in path.name)
        resident = int((process / "statm").read_text().split()[1]) * 4096
        return cls(len(list((process / "fd").iterdir())), len(service.descendants()), files, resident)

    def differs(self, before: "Footprint") -> str:
        """What there is more of than before; nothing if all went."""
        grown = []
        if self.descriptors > before.descriptors:
            grown.append(f"{self.descriptors} descriptors, not {before.descriptors}")
        if self.children > before.children:
            grown.append(f"{self.children} processes, not {before.children}")
        if self.files - before.files:
            grown.append(f"files {sorted(self.files - before.files)}")
        if self.bytes > before.bytes + MEMORY_BYTES:
            grown.append(f"{self.bytes >> 20} MiB, not {before.bytes >> 20}")
        return ", ".join(grown)


@dataclass
class Bystander:
    """Sends the same small picture again and again, and expects the same answer each time."""

    service: RunningService
    pause_seconds: float = 0.05
    answers: int = 0
    failures: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        picture, expected = _picture(), None
        with httpx.Client(base_url=self.service.url, headers=self.service.headers, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/v1/images?scale=2&model=bicubic", content=picture)
                expected = expected or answer.content
                if answer.status_code != 200 or answer.content != expected:
                    self.failures.append(answer.text[:300])
                self.answers += 1
                stop.wait(self.pause_seconds)


@contextmanager
def watched(service: RunningService) -> Iterator[RunningService]:
    """Someone else asks for pictures all the while, and is served rightly each time, whatever other clients and tests do."""
    bystander, stop = Bystander(service, pause_seconds=0.3), threading.Event()
    thread = threading.Thread(target=bystander.run, args=(stop,))
    thread.start()
    try:
        yield service
        _wait_for(bystander, bystander.answers + 2)
    finally:
        stop.set()
        thread.join(60)
    assert bystander.failures == []


@contextmanager
def unharmed(service: RunningService) -> Iterator[None]:
    """Whatever happens inside: a bystander is served rightly meanwhile, the api process stays, and nothing stays behind."""
    bystander, stop = Bystander(service), threading.Event()
    thread = threading.Thread(target=bystander.run, args=(stop,))
    _warm(service)
    before, lines = Footprint.of(service), len(service.log)
    thread.start()
    try:
        yield
        _wait_for(bystander, bystander.answers + 2)
    finally:
        stop.set()
        thread.join(60)
    assert bystander.failures == []
    assert service.process.poll() is None, "the api process ended"
    told = service.log[lines:]
    assert not [line for line in told if " ERROR " in line or "Traceback" in line], "\n".join(told[-20:])
    _settles(service, before)


def _warm(service: RunningService) -> None:
    """What is only started when it is needed, is."""
    with httpx.Client(base_url=service.url, headers=service.headers, timeout=30) as client:
        for _ in range(4):
            assert client.post("/v1/images?scale=2&model=bicubic", content=_picture()).status_code == 200


def _wait_for(bystander: Bystander, answers: int) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while bystander.answers < answers and not bystander.failures:
        assert time.monotonic() < deadline, "the bystander is not served any more"
        time.sleep(0.05)


def _settles(service: RunningService, before: Footprint) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := Footprint.of(service).differs(before):
        assert time.monotonic() < deadline, f"stays behind: {left}"
        time.sleep(0.2)


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((32, 24)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
