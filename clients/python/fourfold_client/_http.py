"""Requests to the service, with retries where they do no harm. The one place that knows httpx.

After a refusal that names a time (Retry-After), or where no connection was made, any request is tried again: nothing was begun.
Where a connection was lost in between, only a request that may run twice.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx

from fourfold_client._access import Access
from fourfold_client.errors import ConnectionLostError, FourfoldError, error_of_answer

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.25, 5.0
CONNECT_SECONDS = 10.0

T = TypeVar("T")


def delay_seconds(attempt: int, retry_after: float | None = None) -> float:
    """How long to wait before a try; longer each time, and never quite alike for many clients.

    Args:
        attempt: counted from 0.
        retry_after: what the service asks for.
    """
    longest = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempt, 10))
    return (retry_after or 0.0) + longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, hides nothing


class Http:
    """Speaks to one service."""

    def __init__(self, access: Access, timeout_seconds: float, retries: int, tls: ssl.SSLContext | None) -> None:
        """Args:
        access: address and key.
        timeout_seconds: that an answer, or the next bytes of one, may take.
        retries: how often a request is tried again.
        tls: whom to trust, if not those whom the system trusts.
        """
        self._access, self._retries = access, retries
        self._longest_wait_seconds = timeout_seconds
        self._client = httpx.AsyncClient(
            base_url=access.url,
            headers=access.headers,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            verify=tls or ssl.create_default_context(),
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        content: Callable[[], bytes | AsyncIterator[bytes]] | None = None,
        repeatable: bool | None = None,
    ) -> httpx.Response:
        """A whole answer.

        Args:
            method: of HTTP.
            path: below the address of the service.
            params: of the query; those that are None are left out.
            headers: beside the key.
            json: the body, as an object, or
            content: makes the body, anew for each try.
            repeatable: the request may reach the service twice; None: if it only reads.

        Raises:
            FourfoldError: the answer is an error, or there is none.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}

        async def attempt() -> httpx.Response:
            body = content() if content else None
            with _translated(self._access.url):
                answer = await self._client.request(method, path, params=given, headers=headers, json=json, content=body)
            if not answer.is_success:
                raise error_of_answer(answer.status_code, answer.headers, answer.content)
            return answer

        return await self._retried(attempt, method == "GET" if repeatable is None else repeatable)

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """The object that an answer holds; see `request`."""
        answer = await self.request(method, path, **options)
        try:
            return answer.json()
        except ValueError:
            text = f"{self._access.url} answered what no Fourfold service does"
            raise ConnectionLostError(text, code="gateway") from None

    @asynccontextmanager
    async def download(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """An answer whose body is still to be read.

        Raises:
            FourfoldError: see `request`; also while the body is read.
        """
        with _translated(self._access.url):
            async with self._client.stream("GET", path, headers=headers) as answer:
                if not answer.is_success:
                    raise error_of_answer(answer.status_code, answer.headers, await answer.aread())
                yield answer

    async def aclose(self) -> None:
        """Ends all connections."""
        await self._client.aclose()

    async def _retried(self, attempt: Callable[[], Awaitable[T]], repeatable: bool) -> T:
        for number in range(self._retries):
            try:
                return await attempt()
            except FourfoldError as error:
                wait = delay_seconds(number, error.retry_after)
                if not _harmless(error, repeatable) or wait > self._longest_wait_seconds:
                    raise
            await asyncio.sleep(wait)
        return await attempt()


def _harmless(error: FourfoldError, repeatable: bool) -> bool:
    """Whether the request may be sent again."""
    if isinstance(error, ConnectionLostError):
        return repeatable or error.code == "unreachable"
    return error.retry_after is not None


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turns httpx's errors into ours, without what they hold of the request."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        text = f"no Fourfold service answers at {url}: {error or 'no connection in time'}; is it running?"
        raise ConnectionLostError(text, code="unreachable") from None
    except httpx.TimeoutException:
        raise ConnectionLostError(f"{url} sent nothing for too long", code="timeout") from None
    except httpx.HTTPError:
        raise ConnectionLostError(f"the connection to {url} was lost", code="lost") from None
