"""The client for programs that do not use asyncio: `AsyncClient` in a thread of its own, with the same names.

Callbacks are called in that thread: they must not call the client, nor take long.
"""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from fourfold_client.client import AsyncClient
from fourfold_client.relays import AsyncRelays

CLEANUP_SECONDS = 15.0
"""That an interrupted call may take to tidy up at the service."""

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")  # an object whose methods are coroutines
A_co = TypeVar("A_co", covariant=True)
Y = TypeVar("Y")


class _Portal:
    """A thread with an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fourfold-client", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Has it done there, and waits. If the caller is interrupted meanwhile, it is cancelled, and tidies up first."""
        ended = threading.Event()

        async def run() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # without effect if it was its own error
            ended.wait(CLEANUP_SECONDS)
            raise

    @property
    def closed(self) -> bool:
        return self._loop.is_closed()

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class _Twin(Protocol[A_co]):
    """An object that has an asynchronous twin."""

    @property
    def _portal(self) -> _Portal: ...
    @property
    def _twin(self) -> A_co: ...


def _blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[_Twin[A], P], T]:
    """The same method, that waits."""

    @wraps(method)
    def call(self: _Twin[A], /, *args: P.args, **options: P.kwargs) -> T:
        return self._portal.call(method(self._twin, *args, **options))

    return call


def _iterating(method: Callable[Concatenate[A, P], AsyncIterator[Y]]) -> "Callable[Concatenate[_Twin[A], P], Answers[Y]]":
    """The same method, that gives a plain iterator."""

    @wraps(method)
    def call(self: _Twin[A], /, *args: P.args, **options: P.kwargs) -> "Answers[Y]":
        async def begin() -> AsyncIterator[Y]:
            return method(self._twin, *args, **options)

        return Answers(self._portal, self._portal.call(begin()))

    return call


class Answers(Generic[Y]):
    """What an asynchronous iterator gives, one after the other. Leave it by `with`, where it is not read to its end."""

    def __init__(self, portal: _Portal, answers: AsyncIterator[Y]) -> None:
        self._portal, self._answers = portal, answers

    def __iter__(self) -> Iterator[Y]:
        return self

    def __next__(self) -> Y:
        async def following() -> tuple[Y] | None:
            async for answer in self._answers:
                return (answer,)
            return None

        if (found := self._portal.call(following())) is None:
            raise StopIteration
        return found[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it, whatever is under way."""
        close: Callable[[], Coroutine[Any, Any, None]] | None = getattr(self._answers, "aclose", None)
        if close:
            self._portal.call(close())


class Relays:
    """The caller's relays."""

    def __init__(self, portal: _Portal, relays: AsyncRelays) -> None:
        self._portal, self._twin = portal, relays

    create = _blocking(AsyncRelays.create)
    list = _blocking(AsyncRelays.list)
    get = _blocking(AsyncRelays.get)
    delete = _blocking(AsyncRelays.delete)
    wait = _blocking(AsyncRelays.wait)
    watch = _iterating(AsyncRelays.watch)


class Client:
    """One Fourfold service. Use it as a context manager, or call `close` at the end."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """See `AsyncClient`."""
        self._twin = AsyncClient(url, api_key=api_key, timeout=timeout, retries=retries, tls=tls)
        self._portal = _Portal()
        self.relays = Relays(self._portal, self._twin.relays)

    def __repr__(self) -> str:
        return repr(self._twin).replace("AsyncClient", "Client")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends its streams, its connections and its thread; once is enough."""
        if self._portal.closed:
            return
        self._portal.call(self._twin.aclose())
        self._portal.close()

    upscale_image = _blocking(AsyncClient.upscale_image)
    upscale_video = _blocking(AsyncClient.upscale_video)
    models = _blocking(AsyncClient.models)
    engines = _blocking(AsyncClient.engines)
    stream = _iterating(AsyncClient.stream)
