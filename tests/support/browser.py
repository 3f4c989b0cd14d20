"""A real browser on the web page, which takes note of what a user would not forgive: errors, and requests to other hosts."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, Request, WebSocket, expect

from server.streams.protocol import parse_header

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 60_000
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--auto-accept-this-tab-capture"),
    "--autoplay-policy=no-user-gesture-required",
)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 667}


def launch(playwright: Playwright, *flags: str) -> Browser:
    """The system's Chromium, with a camera that shows moving shapes and nothing that it asks of its maker."""
    expect.set_options(timeout=WAIT_MS)
    return playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags], timeout=WAIT_MS)


class Visit:
    """One tab on the page of one service."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.allowed: list[str] = []  # patterns of console errors that a test means to bring about
        self.strangers: list[str] = []  # addresses of other hosts that were asked
        self._errors: list[str] = []
        self.sent: set[int] = set()  # sequence numbers of the latest session that are under way
        self.most_under_way = 0
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.on("request", self._note_request)
        page.on("websocket", self._note_websocket)

    @property
    def errors(self) -> list[str]:
        """What went wrong in the page, but for what is allowed."""
        return [error for error in self._errors if not any(re.search(pattern, error) for pattern in self.allowed)]

    def open(self, path: str = "/", ready: bool = True) -> None:
        """Args: ready: wait until the models are there."""
        self.page.goto(self.url + path)
        if ready:
            expect(self.page.locator("#model option[value=bicubic]")).to_be_attached()

    def figure(self, name: str) -> Locator:
        """The value of one figure of the meter."""
        row = self.page.locator("#meter dl > div").filter(has=self.page.locator("dt", has_text=re.compile(f"^{name}$")))
        return row.locator("dd").first

    def size(self, side: str) -> tuple[int, int]:
        """Pixels of the canvas `before` or `after`."""
        width, height = self.page.locator(f"canvas.{side}").evaluate("canvas => [canvas.width, canvas.height]")
        return width, height

    def pixel(self, side: str, x: float, y: float) -> list[int]:
        """Red, green and blue at a place of the canvas, in shares of its sides."""
        script = """(canvas, [x, y]) => {
            const dot = new OffscreenCanvas(1, 1).getContext("2d");
            dot.drawImage(canvas, -Math.floor(x * canvas.width), -Math.floor(y * canvas.height));
            return [...dot.getImageData(0, 0, 1, 1).data].slice(0, 3); }"""
        found: list[int] = self.page.locator(f"canvas.{side}").evaluate(script, [x, y])
        return found

    def play(self, button: str, model: str = "bicubic") -> None:
        """Starts the camera or the screen, and waits for frames."""
        self.page.select_option("#model", model)
        self.page.get_by_role("button", name=button).click()
        self.runs()

    def runs(self) -> None:
        """Waits until frames are shown."""
        expect(self.figure("Frames shown")).to_have_text(re.compile(r"^(?!0\.0)[\d.]+ fps$"))

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._errors.append(message.text)

    def _note_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("blob", "data") and f"{address.scheme}://{address.netloc}" != self.url:
            self.strangers.append(request.url)

    def _note_websocket(self, websocket: WebSocket) -> None:
        self.sent.clear()
        websocket.on("framesent", self._note_sent)
        websocket.on("framereceived", self._note_received)

    def _note_sent(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.sent.add(parse_header(message).sequence)
            self.most_under_way = max(self.most_under_way, len(self.sent))

    def _note_received(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.sent.discard(parse_header(message).sequence)


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """Opens a tab; afterwards nothing may have gone wrong in it.

    Args:
        url: of the service.
        options: of the tab, see `Browser.new_context`.
    """
    with browser.new_context(**{"viewport": DESKTOP} | options) as context:
        visit = Visit(context.new_page(), url)
        yield visit
        assert not visit.errors, visit.errors
        assert not visit.strangers, visit.strangers
