"""The page of relays. What the service says of them is given here, so that every state can be shown without an RTMP server."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.support.browser import Visit, visiting
from tests.support.service import RunningService

SOURCE, TARGET = "rtmp://studio/live/cam", "rtmp://edge/upscaled/cam"


class Relays:
    """`/v1/relays` as docs/service.md has it."""

    def __init__(self) -> None:
        self.relays: list[dict[str, Any]] = []
        self.asked = 0
        self.page = 1000  # relays in one answer

    def answer(self, route: Route) -> None:
        request = route.request
        if request.method == "POST":
            self._start(route, json.loads(request.post_data or ""))
        elif request.method == "DELETE":
            self.relays = [relay for relay in self.relays if not request.url.endswith(f"/{relay['id']}")]
            route.fulfill(status=204)
        else:
            self.asked += 1
            for relay in self.relays:
                relay["fps_out"] = 50 + self.asked % 10
            [first] = map(int, parse_qs(urlsplit(request.url).query).get("cursor", ["0"]))
            following = first + self.page if first + self.page < len(self.relays) else None
            page = self.relays[first : first + self.page]
            route.fulfill(json={"relays": page, "next": following and str(following)})

    def _start(self, route: Route, wanted: dict[str, Any]) -> None:
        if wanted["target"].startswith("rtmp://127"):
            error = {"code": "target_denied", "message": "127.0.0.1 is not allowed", "request_id": "1"}
            route.fulfill(status=422, json={"error": error})
            return
        self.add(**wanted)
        route.fulfill(status=201, json=self.relays[-1])

    def add(self, **values: Any) -> None:
        figures: dict[str, Any] = {"fps_in": 60.0, "fps_out": 0.0, "latency_ms": {"p50": 41.5, "p95": 72.25, "p99": 90.0}}
        about = {"id": f"r{len(self.relays)}", "state": "running", "reason": None, "error": None, "reconnects": 2}
        drops = {"drops": {"late": 3, "burst": 1, "stale": 0}}
        self.relays.append({"source": SOURCE, "model": "xlsr"} | about | drops | figures | values)


@pytest.fixture
def relays() -> Relays:
    return Relays()


@pytest.fixture
def visit(browser: Browser, service: RunningService, relays: Relays) -> Iterator[Visit]:
    with visiting(browser, service.url) as visit:
        visit.page.route(re.compile("/v1/relays"), relays.answer)
        visit.open("/#/relays")
        yield visit


def start(visit: Visit, target: str = TARGET, **more: str) -> None:
    form = visit.page.locator("#relay-form")
    for name, value in {"Source": SOURCE, "Target": target, **more}.items():
        form.get_by_label(name).fill(value)
    form.get_by_label("Model").select_option("xlsr-live")
    form.get_by_role("button", name="Start").click()


def test_a_relay_is_started_watched_and_stopped(visit: Visit, relays: Relays) -> None:
    page = visit.page
    expect(page.locator("#relays-note")).to_have_text("No relay is running.")
    start(visit, **{"Bitrate in Mbit/s": "6.5"})
    card = page.get_by_role("listitem").filter(has_text=TARGET)
    expect(card).to_contain_text(f"from {SOURCE}")
    sent = {name: relays.relays[0][name] for name in ("source", "target", "model", "scale", "bitrate")}
    assert sent == {"source": SOURCE, "target": TARGET, "model": "xlsr-live", "scale": 4, "bitrate": 6_500_000}
    for text in ("running", "41.5 / 72.3 ms", "99 %: 90 ms", "3 late, 1 burst"):
        expect(card).to_contain_text(text)
    for rate in (53, 56):  # figures go on by themselves
        expect(card).to_contain_text(f"{rate} fps")
    page.once("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name=f"Stop {TARGET}").click()
    expect(card).to_have_count(0)
    expect(page.locator("#relays-note")).to_have_text("No relay is running.")


def test_why_a_relay_is_refused_is_said(visit: Visit) -> None:
    visit.allowed.append("422")
    start(visit, "rtmp://127.0.0.1/live/x")
    expect(visit.page.locator("#relay-form-error")).to_have_text("The service refuses: 127.0.0.1 is not allowed")
    expect(visit.page.locator("#relay-form").get_by_label("Source")).to_have_value(SOURCE)


def test_why_a_relay_is_over_is_said_and_it_can_be_removed(visit: Visit, relays: Relays) -> None:
    relays.add(target=TARGET, state="failed", error={"code": "unreachable", "message": "rtmp://edge does not answer"})
    relays.add(target=TARGET + "2", state="ended", reason="the source has ended")
    over = ((TARGET, "failed", "rtmp://edge does not answer"), (TARGET + "2", "ended", "the source has ended"))
    for target, state, why in over:
        card = visit.page.get_by_role("listitem").filter(has=visit.page.get_by_text(target, exact=True))
        expect(card).to_contain_text(state)
        expect(card).to_contain_text(why)
        expect(card.get_by_role("button")).to_have_text(["Remove"])  # nothing is played any more
        card.get_by_role("button", name=f"Remove {target}", exact=True).click()  # asks nothing: nobody watches
        expect(card).to_have_count(0)
    assert relays.relays == []


def test_what_is_sent_to_other_servers_is_not_offered_to_be_played(visit: Visit, relays: Relays) -> None:
    relays.add(target=TARGET, state="running")
    relays.add(target="rtmps://live.example.com/live2/…", state="running")
    card = visit.page.get_by_role("listitem").filter(has=visit.page.get_by_text("…"))
    expect(card.get_by_role("button", name="Stop")).to_be_visible()
    expect(card.get_by_role("button", name="Play")).to_be_hidden()
    expect(visit.page.get_by_role("button", name=f"Play {TARGET}")).to_be_visible()


def test_all_relays_are_listed_however_many_an_answer_holds(visit: Visit, relays: Relays) -> None:
    relays.page = 2
    for number in range(5):
        relays.add(target=f"{TARGET}{number}")
    expect(visit.page.get_by_role("listitem")).to_have_count(5)


def test_after_a_start_model_and_scale_are_those_of_a_new_form(visit: Visit) -> None:
    start(visit)
    form = visit.page.locator("#relay-form")
    expect(form.get_by_label("Source")).to_have_value("")
    expect(form.get_by_label("Model")).to_have_value("auto")
    expect(form.locator("[name=scale] option:disabled")).to_have_count(0)


def test_where_a_relay_is_played_is_shown(visit: Visit) -> None:
    visit.allowed.append("ERR_|Failed to load")  # no RTMP server is there
    visit.page.route(re.compile(":8080/"), lambda route: route.abort())
    start(visit)
    visit.page.get_by_role("button", name=f"Play {TARGET}").click()
    address = "http://127.0.0.1:8080/hls/cam.m3u8"
    expect(visit.page.locator("#player-address")).to_have_text(address)
    plays = visit.page.evaluate("() => document.createElement('video').canPlayType('application/vnd.apple.mpegurl') !== ''")
    words = "Nothing can be played at this address yet" if plays else "does not play HLS by itself"
    expect(visit.page.locator("#player-note")).to_contain_text(words)
    visit.page.get_by_role("button", name="Close").click()
    expect(visit.page.locator("#player")).to_be_hidden()
    visit.strangers = [url for url in visit.strangers if url != address]


def test_a_service_without_relays_says_so(browser: Browser, service: RunningService) -> None:
    error = {"error": {"code": "not_found", "message": "there is nothing at this address", "request_id": "1"}}
    with visiting(browser, service.url) as visit:
        visit.allowed.append("404")
        visit.page.route(re.compile("/v1/relays"), lambda route: route.fulfill(status=404, json=error))
        visit.open("/#/relays")
        expect(visit.page.locator("#relays-note")).to_have_text("This service offers no relays.")
        expect(visit.page.locator("#relay-form")).to_be_hidden()
