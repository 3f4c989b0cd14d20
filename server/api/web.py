"""The web page at `/`, its files, and the interactive documentation at `/docs`: each file read once, sent with an ETag.

The page's own files need no key, since a browser asks for them before it can be given one; `/docs` does. Asks no other host.
Knows nothing of what the page does.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api._dependencies import service_of

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

HLS_PORT = 8080
"""Where the RTMP server offers HLS, on the host of the page, unless a setting says otherwise."""

_HLS_PLACE = b'<meta name="fourfold-hls" content="">'
"""Of index.html; the setting is filled in."""

_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?")

_DOCS = ("docs.html", "docs.js")
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    body: bytes
    media_type: str
    etag: str


def _folder() -> Path:
    """Where the page lies: inside of the installed package, or in the checkout beside it."""
    server = Path(__file__).parents[1]
    installed = server / "web"
    return installed if installed.is_dir() else server.parent / "clients" / "web"


def _asset(body: bytes, media_type: str) -> Asset:
    return Asset(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _policy(request: Request, hls_url: str | None) -> str:
    """The Content-Security-Policy: this host alone, and the one that has the video of a relay."""
    host = _HOST.fullmatch(request.headers.get("host", ""))
    hls = _origin(hls_url) if hls_url else f" http://{host[1]}:{HLS_PORT}" if host else ""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            f"media-src 'self' blob:{hls}",
            f"connect-src 'self'{_sockets(host)}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f" {parts.scheme}://{parts.netloc}"


def _sockets(host: re.Match[str] | None) -> str:
    """WebSockets of this host, for browsers whose 'self' does not include them."""
    return f" ws://{host[0]} wss://{host[0]}" if host else ""


def _handler(path: Path) -> Callable[[Request], Awaitable[Response]]:
    body, media_type = path.read_bytes(), TYPES[path.suffix]

    @cache
    def filled(hls_url: str | None) -> Asset:
        place = _HLS_PLACE.replace(b'""', f'"{hls_url or ""}"'.encode())
        return _asset(body.replace(_HLS_PLACE, place), media_type)

    async def handler(request: Request) -> Response:
        hls_url = service_of(request).settings.hls_url
        asset = filled(hls_url)
        headers = {
            "ETag": asset.etag,
            "Cache-Control": "no-cache",  # kept by browsers, and asked for again at each visit: 304 if it is the same
            "Content-Security-Policy": _policy(request, hls_url),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        known = re.findall(r'"[^"]*"', request.headers.get("if-none-match", ""))
        if asset.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(asset.body, media_type=asset.media_type, headers=headers)

    return handler


def _page_files() -> dict[str, Path]:
    """What everyone may read, by its path."""
    found = {
        f"/web/{path.name}": path for path in sorted(_folder().iterdir()) if path.suffix in TYPES and path.name not in _DOCS
    }
    return {"/": found.pop("/web/index.html"), **found}


def _docs_files() -> dict[str, Path]:
    """The documentation, with Swagger UI from a package instead of from another host."""
    swagger = Path(str(files("fastapi_swagger").joinpath("resources")))
    own = {"/docs": _folder() / "docs.html", "/docs/docs.js": _folder() / "docs.js"}
    return own | {f"/docs/{name}": swagger / name for name in _SWAGGER}


_PAGE = _page_files()

PATHS = tuple(_PAGE)
"""Paths that need no key."""

router = APIRouter()
for _path, _file in (_PAGE | _docs_files()).items():
    router.add_route(_path, _handler(_file), include_in_schema=False)
