"""The web page of a service that asks for a key, or has no room."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from server.keyfile import Limits, add_key
from tests.support.browser import Visit, visiting
from tests.support.service import RunningService, running_service
from tests.support.stream import client


@dataclass
class Guarded:
    """A service with keys, and the key of someone who may have one session at once."""

    service: RunningService
    key: str
    pictures_only: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.json"
    root = add_key(keys, "root", ["admin"], None, Limits())
    one = add_key(keys, "one", ["images", "streams", "relays"], None, Limits(streams=1))
    few = add_key(keys, "few", ["images"], None, Limits())
    with running_service(folder, key=root, api_keys_file=keys) as service:
        yield Guarded(service, one, few)


@pytest.fixture
def visit(browser: Browser, guarded: Guarded) -> Iterator[Visit]:
    with visiting(browser, guarded.service.url) as visit:
        visit.allowed.append("401|WebSocket")  # Chromium notes each refusal
        visit.open(ready=False)
        yield visit


def enter(visit: Visit, key: str) -> None:
    dialog = visit.page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key", exact=True).fill(key)
    visit.page.keyboard.press("Enter")


def test_the_page_asks_for_a_key_and_keeps_it_in_this_tab_only(visit: Visit, guarded: Guarded) -> None:
    page = visit.page
    expect(page.get_by_role("alert").first).to_contain_text("An API key is needed: ")
    enter(visit, "ff_wrong")
    expect(page.locator("#key-error")).to_contain_text("unknown, revoked or expired")
    enter(visit, "two words")
    expect(page.locator("#key-error")).to_contain_text("no spaces")
    enter(visit, guarded.key)
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("alert").first).to_be_hidden()
    visit.play("Use the camera")
    stored = page.evaluate("() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    assert stored == [[guarded.key], [], ""]
    assert guarded.key not in page.content()
    page.reload()
    expect(page.locator("#model option[value=bicubic]")).to_be_attached()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("() => sessionStorage.length") == 0


def test_relays_ask_for_a_key_once_and_come_with_it(visit: Visit, guarded: Guarded) -> None:
    page = visit.page
    asked: list[str] = []
    page.on("request", lambda request: "/v1/relays" in request.url and asked.append(request.url))
    page.clock.install()
    page.evaluate("location.hash = '#/relays'")
    dialog = page.get_by_role("dialog")
    expect(page.locator("#relays-note")).to_contain_text("An API key is needed: ")
    dialog.get_by_role("button", name="Cancel").click()
    page.clock.run_for(12_000)
    expect(dialog).to_be_hidden()
    assert len(asked) == 1
    page.get_by_role("button", name="API key").click()
    enter(visit, guarded.key)
    expect(page.locator("#relays-note")).to_have_text("No relay is running.")


def test_a_key_without_the_scope_is_refused_in_words(visit: Visit, guarded: Guarded) -> None:
    enter(visit, guarded.pictures_only)
    expect(visit.page.get_by_role("dialog")).to_be_hidden()
    visit.page.get_by_role("button", name="Use the camera").click()
    expect(visit.page.locator("#status")).to_contain_text("or the key lacks the scope streams. Trying again.")


def test_without_room_it_waits_and_then_runs(visit: Visit, guarded: Guarded) -> None:
    enter(visit, guarded.key)
    expect(visit.page.get_by_role("dialog")).to_be_hidden()
    visit.page.select_option("#model", "bicubic")
    with client(guarded.service, additional_headers={"Authorization": f"Bearer {guarded.key}"}) as other:
        other.start(model="bicubic")
        visit.page.get_by_role("button", name="Use the camera").click()
        expect(visit.page.locator("#status")).to_contain_text("it takes no session now")
        expect(visit.page.locator("#status")).to_contain_text("Trying again.")
    visit.runs()
