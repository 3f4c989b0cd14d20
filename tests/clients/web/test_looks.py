"""The web page for everyone: on a phone, in the dark, by keyboard and by screen reader; and the documentation beside it."""

from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import DESKTOP, PHONE, Visit, visiting
from tests.support.service import RunningService

CONTRAST = 4.5  # of text, WCAG 2.2 AA

UNNAMED = """() => [...document.querySelectorAll("button, a, input, select, video")]
    .filter((element) => element.checkVisibility() && !element.labels?.length)
    .filter((element) => !element.ariaLabel && !element.innerText.trim())
    .map((element) => element.outerHTML)"""

WEAK = """(least) => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => numbers(colour).slice(0, 3).map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const behind = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (numbers(colour)[3] !== 0) return colour;
        }
    };
    const texts = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
        && !element.closest(".frame") && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
    const contrast = (element) => {
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
    };
    return texts.map((element) => [element.textContent.trim(), contrast(element)]).filter(([, value]) => value < least);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_can_be_read_and_nothing_sticks_out(
    browser: Browser, service: RunningService, scheme: Literal["light", "dark"], size: dict[str, int]
) -> None:
    with visiting(browser, service.url, viewport=size, color_scheme=scheme, reduced_motion="reduce") as visit:
        visit.allowed.append("404")
        visit.open()
        page = visit.page
        dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] < 128")
        assert dark == (scheme == "dark")
        visit.play("Use the camera")
        for path in ("#/", "#/relays"):
            page.evaluate("path => location.hash = path", path)
            assert page.evaluate(WEAK, CONTRAST) == []
            assert page.evaluate(UNNAMED) == []
            assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0


def test_everything_can_be_reached_and_seen_by_keyboard(visit: Visit) -> None:
    page = visit.page
    names = []
    while len(names) < 30 and "Share the screen" not in names:
        page.keyboard.press("Tab")
        names.append(page.evaluate("() => document.activeElement.ariaLabel ?? document.activeElement.innerText.trim()"))
        outline = page.evaluate("() => parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert outline >= 2, names[-1]
    assert names == ["Fourfold", "Live", "Relays", "API", "API key", "Choose a file", "Use the camera", "Share the screen"]


def test_the_documentation_works_without_another_host(browser: Browser, service: RunningService) -> None:
    with visiting(browser, service.url) as visit:
        visit.open()
        visit.page.get_by_role("link", name="API").click()
        call = visit.page.locator("#operations-operation-live_health_live_get")
        call.locator(".opblock-summary-control").click()
        call.get_by_role("button", name="Try it out").click()
        call.get_by_role("button", name="Execute").click()
        expect(call.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
