"""How fast the page is on this machine: `python -m tests.clients.web.camera_rate FOLDER`.

Plays Chromium's own camera (480x270) on a service with its usual settings, for some seconds with each model and codec, and
prints what the page's meter shows. Screenshots go to FOLDER.
"""

import argparse
import re
import statistics
import tempfile
from itertools import product
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.support.browser import DESKTOP, PHONE, Visit, launch, visiting
from tests.support.service import running_service

MODELS = ("bicubic", "xlsr", "xlsr-live")
CODECS = {"JPEG": "jpeg", "H.264": "auto"}  # name on the wire -> value of the page's choice
WARM_UP_SECONDS = 120
SETTLE_SECONDS = 5  # after a change: rates are those of the last two
ROWS = ("Model", "On the wire", "In the service", "Round trip", "Dropped", "Passed over", "Under way")


def main() -> None:
    """Measures one combination after the other, in one tab."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients.web.camera_rate", description="The page's frame rate.")
    parser.add_argument("folder", type=Path, help="of the screenshots; made if it is missing")
    parser.add_argument("--seconds", type=int, default=30, help="of each combination")
    parser.add_argument("--fps", type=int, default=60, help="of the camera: 5 to 60")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    camera = f"--use-fake-device-for-media-stream=fps={given.fps}"
    with (
        tempfile.TemporaryDirectory() as data,
        running_service(Path(data)) as service,
        sync_playwright() as playwright,
        launch(playwright, camera) as browser,
        visiting(browser, service.url) as visit,
    ):
        visit.open()
        visit.play("Use the camera")
        for model, codec in product(MODELS, CODECS):
            warm_up(visit, model, codec)
            print(f"{model}, {codec}", *measured(visit, given.seconds), sep="\n  ", flush=True)
            take_screenshots(visit, given.folder / f"{model}-{codec.replace('.', '').lower()}")


def warm_up(visit: Visit, model: str, codec: str) -> None:
    """Waits until this model upscales, then begins anew: the meter counts from there."""
    visit.page.select_option("#codec", CODECS[codec])
    visit.page.select_option("#model", model)
    for _ in range(WARM_UP_SECONDS // SETTLE_SECONDS):
        visit.page.wait_for_timeout(1000 * SETTLE_SECONDS)  # until the engine is compiled, another model takes its place
        if visit.figure("Model").inner_text() == model:
            break
    visit.page.dispatch_event("#settings", "change")
    visit.runs()
    visit.page.wait_for_timeout(1000 * SETTLE_SECONDS)


def measured(visit: Visit, seconds: int) -> list[str]:
    """The frame rate, once a second, and the other figures at the end."""
    rates, models = list[float](), set[str]()
    for _ in range(seconds):
        visit.page.wait_for_timeout(1000)
        rates.append(float(visit.figure("Frames shown").inner_text().split()[0]))
        models.add(visit.figure("Model").inner_text())
    rate = f"Frames shown: median {statistics.median(rates):.1f} fps, {min(rates):.1f} to {max(rates):.1f}"
    rows = [f"{name}: {visit.figure(name).inner_text()} ({detail(visit, name)})" for name in ROWS]
    return [f"{rate} ({detail(visit, 'Frames shown')})", f"Models: {', '.join(sorted(models))}", *rows]


def detail(visit: Visit, name: str) -> str:
    """What the meter says beside a figure."""
    row = visit.page.locator("#meter dl > div").filter(has=visit.page.locator("dt", has_text=re.compile(f"^{name}$")))
    return row.locator("dd.small").inner_text()


def take_screenshots(visit: Visit, path: Path) -> None:
    for name, size in (("phone", PHONE), ("desktop", DESKTOP)):
        visit.page.set_viewport_size(size)
        visit.page.screenshot(path=f"{path}-{name}.png", full_page=True)


if __name__ == "__main__":
    main()
