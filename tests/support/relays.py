"""The real app with workers of relays that a test speaks for: it says what they would, and reads what they are told."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from server import relays
from server.app import create_app
from server.errors import ServiceError
from server.service import Service
from server.settings import Settings
from server.streams.pool import Worker, Workers
from server.streams.wire import AsyncChannel
from server.streams.worker import WorkerJob

SOURCE, TARGET = "rtmp://127.0.0.1/live/cam?key=ff_canary-canary-canary", "rtmp://127.0.0.1/upscaled/cam"
WISH = {"source": SOURCE, "target": TARGET}
WAIT_SECONDS = 60.0


class ScriptedWorker(Worker):
    """One worker. It ends when it is told to, or is hung up on."""

    def __init__(self, job: WorkerJob, ours: AsyncChannel, theirs: AsyncChannel, obedient: bool) -> None:
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        super().__init__(ours, 0, self._exit)
        self.options, self.heard, self._theirs, self._obedient = job.options, list[dict[str, Any]](), theirs, obedient
        self._listening = asyncio.create_task(self._listen())

    async def say(self, kind: str, **values: Any) -> None:
        await self._theirs.send_json({"type": kind, **values})

    async def run(self) -> None:
        """Says all that a worker says of a source of 32x24 pixels, up to its first frame."""
        await self.say("source", width=32, height=24, fps=30.0, codec="h264", audio=True, deinterlaced=False)
        await self.say("output", width=128, height=96, encoder="libx264", engine="openvino", precision="fp32")
        await self.say("state", state="running", reason=None)
        await self.frames(1)

    async def frames(self, delivered: int, seconds: float = 0.02, **more: Any) -> None:
        nothing: dict[str, Any] = {"held": 0, "dropped": {}, "failed": 0, "under_way": 0}
        stages = [[seconds, 0.001, 0.002, 0.003, 0.004, 0.005]] * delivered
        await self.say("frames", **{**nothing, "delivered": stages, "in": delivered, **more})

    async def finish(self, code: int = 0) -> None:
        """Ends, as a process does; without a last word that is a crash."""
        await self._theirs.aclose()
        if not self._exit.done():
            self._exit.set_result(code)

    def kill(self) -> None:
        self._killing = asyncio.create_task(self.finish(-9))

    async def _listen(self) -> None:
        while (received := await self._theirs.receive()) is not None:
            self.heard.append(json.loads(received[1]))
            if self._obedient:
                with suppress(ConnectionError):
                    await self.say("ended", reason="stopped")
        await self.finish()


@dataclass
class Bench:
    """The app, in this process, and what it started."""

    service: Service
    client: httpx.AsyncClient
    workers: list[ScriptedWorker] = field(default_factory=list)
    refusal: ServiceError | None = None  # what starting a worker ends with
    obedient: bool = True  # workers end when they are told to

    async def spawn(self, job: WorkerJob) -> Worker:
        if self.refusal:
            raise self.refusal
        ours, theirs = socket.socketpair()
        worker = ScriptedWorker(job, await AsyncChannel.open(ours), await AsyncChannel.open(theirs), self.obedient)
        self.workers.append(worker)
        return worker

    async def worker(self, number: int) -> ScriptedWorker:
        """The worker that was started as this one, from 1 on."""
        await until(lambda: len(self.workers) >= number)
        return self.workers[number - 1]

    async def create(self, **changes: Any) -> dict[str, Any]:
        """Starts a relay."""
        answer = await self.client.post("/v1/relays", json=WISH | changes)
        assert answer.status_code == 201, answer.text
        relay: dict[str, Any] = answer.json()
        return relay

    async def hook(self, call: str, name: str = "cam", client: str = "1", query: str = "", **fields: str) -> httpx.Response:
        """Does what nginx-rtmp does."""
        form = {"app": "live", "addr": "192.0.2.7", "clientid": client, "call": call, "name": name} | fields
        return await self.client.post(f"/hooks/rtmp/{call}{query}", data=form)

    async def relays(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = (await self.client.get("/v1/relays")).json()["relays"]
        return listed

    async def relay(self, relay_id: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """A relay, once it is as it should be."""
        relay: dict[str, Any] = {}
        async with asyncio.timeout(WAIT_SECONDS):
            while not relay or not reached(relay):
                await asyncio.sleep(0.02)
                relay = (await self.client.get(f"/v1/relays/{relay_id}")).json()
        return relay

    def metric(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(f"fourfold_{name}", labels) or 0.0


@asynccontextmanager
async def bench(folder: Path, key: str | None = None, **settings: Any) -> AsyncIterator[Bench]:
    """Args:
    folder: of its data.
    key: an API key for the client.
    settings: see `Settings`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workers, "spawn", lambda _, job: made.spawn(job))
        app = await asyncio.to_thread(create_app, Settings(data_folder=folder, **settings))
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)  # as `Jobs` does
    service: Service = app.state.service
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
        made = Bench(service, client)
        await service.relays.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relays, "LISTEN_SECONDS", 0)  # these workers ask no RTMP server
            try:
                yield made
            finally:
                await service.relays.stop(10)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not happened():
            await asyncio.sleep(0.02)
