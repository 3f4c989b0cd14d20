"""Live relays: `client.relays`. Knows nothing of how requests are made."""

import asyncio
from collections.abc import AsyncGenerator, Container, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from fourfold_client.types import Relay, RelayState

POLL_SECONDS = 0.5


class _Requests(Protocol):
    async def json(self, method: str, path: str, **options: Any) -> Any: ...
    async def request(self, method: str, path: str) -> Any: ...


class AsyncRelays:
    """The caller's relays."""

    def __init__(self, http: _Requests) -> None:
        self._http = http

    async def create(
        self,
        source: str,
        target: str,
        *,
        model: str | None = None,
        scale: int = 4,
        encoder: str | None = None,
        bitrate: int | None = None,
        keyframe_seconds: float | None = None,
    ) -> Relay:
        """Starts a relay.

        Args:
            source: where frames come from, rtmp: or rtmps:.
            target: where they go.
            model: a model's name, or auto; None: what the service is set to.
            scale: output pixels for one input pixel, each way.
            encoder: by its name; None: the service chooses.
            bitrate: in bit/s; None: by size and rate of the pictures.
            keyframe_seconds: from one keyframe to the next.

        Raises:
            BusyError: the service has as many relays as it can.
            InvalidInputError: an address is not allowed, or a value.
        """
        given = {"model": model, "encoder": encoder, "bitrate": bitrate, "keyframe_seconds": keyframe_seconds}
        words = {name: value for name, value in given.items() if value is not None}
        answer = await self._http.json("POST", "/v1/relays", json={"source": source, "target": target, "scale": scale} | words)
        return Relay.parsed(answer)

    async def list(self) -> Sequence[Relay]:
        """All of them, the newest first."""
        found: list[Relay] = []
        cursor = None
        while True:
            answer = await self._http.json("GET", "/v1/relays", params={"cursor": cursor})
            found += [Relay.parsed(words) for words in answer["relays"]]
            if not (cursor := answer.get("next")):
                return found

    async def get(self, id: str) -> Relay:  # noqa: A002
        """One of them, as it is now.

        Raises:
            NotFoundError: there is none with this id.
        """
        return Relay.parsed(await self._http.json("GET", _path(id)))

    async def delete(self, id: str) -> None:  # noqa: A002
        """Stops and removes one.

        Raises:
            NotFoundError: there is none with this id.
        """
        await self._http.request("DELETE", _path(id))

    async def wait(
        self,
        id: str,  # noqa: A002
        states: Container[RelayState] = ("running", "ended", "failed"),
        timeout: float | None = None,
    ) -> Relay:
        """Waits until a relay is in one of these states, or is over.

        Raises:
            TimeoutError: it took more than `timeout` seconds.
            NotFoundError: there is none with this id.
        """
        async with asyncio.timeout(timeout):
            while not ((relay := await self.get(id)).state in states or relay.over):
                await asyncio.sleep(POLL_SECONDS)
        return relay

    async def watch(self, id: str, interval: float = 1.0) -> AsyncGenerator[Relay, None]:  # noqa: A002
        """A relay as it is now, and again every `interval` seconds, until it is over.

        Raises:
            NotFoundError: there is none with this id (any more).
        """
        yield (relay := await self.get(id))
        while not relay.over:
            await asyncio.sleep(interval)
            yield (relay := await self.get(id))


def _path(id: str) -> str:  # noqa: A002
    return f"/v1/relays/{quote(id, safe='')}"
