"""Where the service is, and the key that opens it. Knows nothing of requests."""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Access:
    """An address and a key. The key is never shown."""

    url: str  # without a slash at its end
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def find(cls, url: str | None, api_key: str | None) -> "Access":
        """What was given, or what FOURFOLD_URL and FOURFOLD_API_KEY say, or the service of this machine.

        Raises:
            ValueError: the address or the key cannot be one.
        """
        url = (url or os.environ.get("FOURFOLD_URL") or DEFAULT_URL).rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("the address of the service is like http://HOST:8000 or https://HOST; this one is not")
        if parts.username or parts.password:
            raise ValueError(
                "the address of the service takes no user or password; give the key as api_key or FOURFOLD_API_KEY"
            )
        key = (api_key or os.environ.get("FOURFOLD_API_KEY") or "").strip()
        if not (key.isascii() and (key or "x").isprintable()) or " " in key:
            raise ValueError("the API key holds characters that no key has; copy it again")
        return cls(url, key or None)

    @property
    def websocket_url(self) -> str:
        """The same with ws: or wss:."""
        return "ws" + self.url.removeprefix("http")

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
