"""The files of the web page and of the documentation, as any client gets them."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api import web
from server.app import create_app
from server.keyfile import Limits, add_key
from server.settings import Settings
from tests.support.service import RunningService, running_service

HERE = Path(__file__).parents[2] / "clients" / "web"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("guarded")
    key = add_key(folder / "keys.json", "root", ["admin"], None, Limits())
    with running_service(folder, key=key, api_keys_file=folder / "keys.json") as service:
        yield service


@pytest.fixture
def stranger(guarded: RunningService) -> Iterator[httpx.Client]:
    """Somebody without a key."""
    with httpx.Client(base_url=guarded.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("path", web.PATHS)
def test_every_file_of_the_page_is_for_everyone(stranger: httpx.Client, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 200
    assert answer.content == (HERE / (path.rpartition("/")[2] or "index.html")).read_bytes()
    assert answer.headers["Content-Type"].partition(";")[0] == web.TYPES[Path(path).suffix or ".html"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    again = stranger.get(path, headers={"If-None-Match": f'"other", W/{answer.headers["ETag"]}'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    assert stranger.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    head = stranger.head(path)
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(answer.content)))


def test_the_page_names_only_files_that_are_there(stranger: httpx.Client) -> None:
    named = re.findall(r'(?:src|href)="(web/[^"]+)"', stranger.get("/").text)
    scripts = [path for path in web.PATHS if path.endswith(".js")]
    for script in scripts:
        named += [f"web/{name}" for name in re.findall(r'from "\./([^"]+)"', stranger.get(script).text)]
    assert {f"/{name}" for name in named} == set(web.PATHS) - {"/"}


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_policy_lets_nothing_in_from_outside(guarded: RunningService, path: str) -> None:
    headers = guarded.headers | {"Host": "video.example:8443"}
    policy = httpx.get(guarded.url + path, headers=headers).headers["Content-Security-Policy"]
    rules = {name: sources for name, *sources in map(str.split, policy.split("; "))}
    assert "unsafe" not in policy
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == rules["form-action"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == ["'self'"]
    assert rules["connect-src"] == ["'self'", "ws://video.example:8443", "wss://video.example:8443"]
    assert rules["media-src"] == ["'self'", "blob:", "http://video.example:8080"]


@pytest.mark.anyio
async def test_the_page_plays_hls_from_where_the_setting_says(tmp_path: Path) -> None:
    async def page(**settings: Any) -> httpx.Response:
        app = await asyncio.to_thread(create_app, Settings(data_folder=tmp_path, **settings))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.get("/")

    plain, told = await page(), await page(hls_url="https://media.example:8443/a/hls/")
    assert '<meta name="fourfold-hls" content="">' in plain.text
    assert '<meta name="fourfold-hls" content="https://media.example:8443/a/hls">' in told.text
    assert "media-src 'self' blob: https://media.example:8443;" in told.headers["Content-Security-Policy"]
    assert told.headers["ETag"] != plain.headers["ETag"]


def test_a_forged_host_does_not_get_into_the_policy(guarded: RunningService) -> None:
    headers = guarded.headers | {"Host": "a; script-src *"}
    answer = httpx.get(guarded.url, headers=headers)
    assert "*" not in answer.headers.get("Content-Security-Policy", "")


def test_the_documentation_needs_a_key_and_no_other_host(guarded: RunningService, stranger: httpx.Client) -> None:
    page = httpx.get(f"{guarded.url}/docs", headers=guarded.headers).text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert "docs/swagger-ui-bundle.js" in files
    for name in files:
        assert httpx.get(f"{guarded.url}/{name}", headers=guarded.headers).status_code == 200
        assert stranger.get(f"/{name}").status_code == (200 if name.startswith("web/") else 401)
