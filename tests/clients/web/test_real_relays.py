"""The page of relays on a service that relays: a stream comes in by RTMP, and is seen in the browser by HLS."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.support.browser import Visit, visiting
from tests.support.rig import Rig, running_rig, small_clip

RATE = re.compile(r"Frames out\s*[1-9][\d.]* fps")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with running_rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def visit(browser: Browser, rig: Rig) -> Iterator[Visit]:
    with visiting(browser, rig.service.url) as visit:
        visit.allowed.append("404")  # a playlist is there only after the first fragment
        visit.open("/#/relays")
        yield visit


def card_of(visit: Visit, target: str) -> Locator:
    return visit.page.get_by_role("listitem").filter(has=visit.page.get_by_text(target, exact=True))


def test_relays_are_watched_started_played_and_stopped(visit: Visit, rig: Rig, tmp_path: Path) -> None:
    page, source, target = visit.page, rig.publish_url("cam"), rig.play_url("wall")
    with rig.publishes("cam", small_clip(tmp_path)):
        own = card_of(visit, rig.play_url("cam"))  # that the publisher started
        expect(own).to_contain_text("running")
        expect(own).to_contain_text(RATE)
        expect(own).to_contain_text(re.compile(r"Latency\s*[\d.]+ / [\d.]+ ms"))

        form = page.locator("#relay-form")
        form.get_by_label("Source").fill(source)
        form.get_by_label("Target").fill(target)
        form.get_by_label("Model").select_option("bicubic")
        form.get_by_label("Scale").select_option("2")
        form.get_by_role("button", name="Start").click()
        started = card_of(visit, target)
        expect(started).to_contain_text(f"from {source}")
        expect(started).to_contain_text("running")
        expect(started).to_contain_text(RATE)

        started.get_by_role("button", name="Play").click()
        expect(page.locator("#player-address")).to_have_text(f"{rig.nginx.http_url}/hls/wall.m3u8")
        if page.evaluate("() => document.createElement('video').canPlayType('application/vnd.apple.mpegurl') !== ''"):
            page.wait_for_function("() => { const video = document.querySelector('video'); return video.currentTime > 2; }")
            size = page.locator("#player video").evaluate("video => [video.videoWidth, video.videoHeight]")
            assert size == [192, 128]
        else:
            expect(page.locator("#player-note")).to_contain_text("does not play HLS by itself")
        page.get_by_role("button", name="Close").click()

        page.once("dialog", lambda dialog: dialog.accept())
        started.get_by_role("button", name="Stop").click()
        expect(started).to_have_count(0)
        assert [relay["stream"] for relay in rig.relays()] == ["cam"]
        expect(own).to_contain_text("running")
    visit.strangers = [url for url in visit.strangers if not url.startswith(f"{rig.nginx.http_url}/hls/")]
