"""The web page in a real browser, on the real service."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.browser import CHROMIUM, Visit, launch, visiting
from tests.support.service import RunningService, running_service


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Of this package alone: while it runs, there is an event loop in the thread of the tests."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine (`make system` installs it)")
    with sync_playwright() as playwright, launch(playwright) as browser:
        yield browser


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Without keys."""
    with running_service(tmp_path_factory.mktemp("web"), max_image_pixels=400 * 300) as service:
        yield service


@pytest.fixture
def visit(browser: Browser, service: RunningService) -> Iterator[Visit]:
    """The page, opened."""
    with visiting(browser, service.url) as visit:
        visit.open()
        yield visit
