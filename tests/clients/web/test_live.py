"""Moving pictures on the web page: camera, screen and clip, while the model changes, the service stalls, and comes back."""

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, WebSocketRoute, expect

from tests.support.browser import Visit, visiting
from tests.support.clips import write
from tests.support.service import RunningService, running_service

MOST_UNDER_WAY = 12
NUMBER = r"\d+(\.\d+)?"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds of a moving gradient that every browser plays."""
    options = {"crf": "12", "preset": "ultrafast", "profile": "baseline"}
    return write(tmp_path / "clip.mp4", width=160, height=96, frames=40, rate=20, options=options)


def test_the_camera_is_upscaled_live_and_measured(visit: Visit) -> None:
    visit.play("Use the camera")
    assert visit.size("after") == tuple(4 * side for side in visit.size("before"))
    expect(visit.page.locator("#status")).to_have_text("Camera: running.")
    expect(visit.figure("In the service")).to_have_text(re.compile(rf"^{NUMBER} / {NUMBER} ms$"))
    expect(visit.figure("Round trip")).to_have_text(re.compile(rf"^{NUMBER} / {NUMBER} ms$"))
    expect(visit.figure("Model")).to_have_text("bicubic")
    expect(visit.figure("On the wire")).to_have_text("H.264 / H.264")
    background = visit.pixel("before", 0.05, 0.05)
    assert max(abs(a - b) for a, b in zip(background, visit.pixel("after", 0.05, 0.05), strict=True)) < 12
    visit.page.get_by_role("button", name="Stop").click()
    expect(visit.page.get_by_text("Drop a picture or a clip here")).to_be_visible()


def test_model_scale_size_and_codec_change_while_it_runs(visit: Visit) -> None:
    visit.play("Use the camera", model="xlsr")
    expect(visit.figure("Model")).to_have_text(re.compile("xlsr|bicubic"))  # bicubic until the engine for xlsr is there
    page = visit.page
    page.select_option("#model", "bicubic")
    expect(visit.figure("Model")).to_have_text("bicubic")
    page.select_option("#scale", "2")
    visit.runs()
    expect(page.locator("#caption")).to_contain_text("After: 960 × 540")
    page.select_option("#lines", "180")
    expect(page.locator("#caption")).to_contain_text("320 × 180, scaled by the browser. After: 640 × 360.")
    page.select_option("#codec", "jpeg")
    expect(visit.figure("On the wire")).to_have_text("JPEG / JPEG")
    visit.runs()


def test_a_model_that_lacks_the_scale_comes_with_one_that_it_has(visit: Visit) -> None:
    visit.page.select_option("#scale", "2")
    visit.play("Use the camera")
    visit.page.select_option("#model", "xlsr-live")
    expect(visit.page.locator("#scale")).to_have_value("4")
    expect(visit.figure("Model")).to_have_text(re.compile("xlsr-live|bicubic"))  # bicubic until the engine is there
    expect(visit.page.locator("#caption")).to_contain_text("After: 1920 × 1080")
    visit.runs()


def test_without_webcodecs_it_is_jpeg(browser: Browser, service: RunningService) -> None:
    with visiting(browser, service.url) as visit:
        visit.page.add_init_script("delete globalThis.VideoEncoder; delete globalThis.VideoDecoder;")
        visit.open()
        visit.play("Use the camera")
        expect(visit.figure("On the wire")).to_have_text("JPEG / JPEG")


def test_a_codec_that_breaks_is_replaced(browser: Browser, service: RunningService) -> None:
    broken = "VideoDecoder.prototype.decode = function () { throw new Error('broken'); };"
    with visiting(browser, service.url) as visit:
        visit.page.add_init_script(broken)
        visit.open()
        visit.play("Use the camera")
        expect(visit.figure("On the wire")).to_have_text("H.264 / JPEG")


def test_a_decoder_that_is_cut_off_from_its_stream_is_not_taken_for_broken(browser: Browser, service: RunningService) -> None:
    held = """globalThis.hold = false;
        const {decode} = VideoDecoder.prototype;
        VideoDecoder.prototype.decode = function (chunk) { if (!hold) decode.call(this, chunk); };"""
    sockets: list[WebSocketRoute] = []

    def connect(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    with visiting(browser, service.url) as visit:
        visit.page.add_init_script(held)
        visit.page.route_web_socket(re.compile("/v1/stream"), connect)
        visit.open()
        visit.play("Use the camera")
        visit.page.evaluate("hold = true")
        expect(visit.figure("Frames shown")).to_have_text("0.0 fps")
        sockets[0].close()
        expect(visit.page.locator("#status")).to_contain_text("Trying again.")
        visit.page.evaluate("hold = false")
        visit.runs()
        expect(visit.figure("On the wire")).to_have_text("H.264 / H.264")
        expect(visit.figure("Dropped")).not_to_have_text("0")  # what was with the decoder


def test_the_screen_is_upscaled_live(visit: Visit) -> None:
    visit.play("Share the screen")
    expect(visit.page.locator("#status")).to_have_text("Screen: running.")


def test_a_clip_plays_and_pauses(visit: Visit, clip: Path) -> None:
    visit.page.select_option("#model", "bicubic")
    visit.page.set_input_files("#file", clip)
    visit.runs()
    expect(visit.page.locator("#caption")).to_contain_text("Before: 160 × 96, scaled by the browser. After: 640 × 384.")
    visit.page.get_by_role("button", name="Pause").click()
    expect(visit.figure("Frames shown")).to_have_text("0.0 fps")
    visit.page.get_by_role("button", name="Pause").click()
    visit.runs()


def test_a_source_that_cannot_be_opened_leaves_the_one_before(browser: Browser, service: RunningService) -> None:
    refused = "MediaDevices.prototype.getDisplayMedia = async () => { throw new DOMException('no', 'NotAllowedError'); };"
    with visiting(browser, service.url) as visit:
        visit.page.add_init_script(refused)
        visit.open()
        visit.play("Use the camera")
        visit.page.get_by_role("button", name="Share the screen").click()
        expect(visit.page.get_by_role("alert").first).to_have_text("Screen: the browser was not allowed to use it.")
        visit.page.get_by_role("button", name="Pause").click()
        expect(visit.page.locator("#status")).to_have_text("Camera: paused.")
        expect(visit.figure("Frames shown")).to_have_text("0.0 fps")
        visit.page.get_by_role("button", name="Pause").click()
        visit.runs()


def test_what_is_no_clip_is_said(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"nothing")
    visit.page.set_input_files("#file", path)
    expect(visit.page.get_by_role("alert").first).to_contain_text("broken.mp4: this browser cannot play it.")


def test_a_service_that_stalls_gets_few_frames_and_the_newest_afterwards(visit: Visit, service: RunningService) -> None:
    visit.play("Use the camera")
    service.process.send_signal(signal.SIGSTOP)
    try:
        expect(visit.figure("Frames shown")).to_have_text("0.0 fps")
        expect(visit.figure("Passed over")).to_have_text(re.compile(r"^[1-9]\d*$"))
    finally:
        service.process.send_signal(signal.SIGCONT)
    visit.runs()
    assert visit.most_under_way <= MOST_UNDER_WAY


@pytest.mark.parametrize("when", ["while it runs", "before it begins"])
def test_a_connection_that_says_nothing_more_is_replaced(browser: Browser, service: RunningService, when: str) -> None:
    with visiting(browser, service.url) as visit:
        visit.allowed.append("WebSocket")
        visit.page.clock.install()
        visit.open()
        if when == "while it runs":
            visit.play("Use the camera")
        service.process.send_signal(signal.SIGSTOP)  # the kernel keeps its connections, and takes new ones
        try:
            if when == "before it begins":
                visit.page.get_by_role("button", name="Use the camera").click()
                expect(visit.page.locator("#status")).to_have_text("Camera: connecting.")
            visit.page.wait_for_timeout(500)
            visit.page.clock.fast_forward(31_000)
            expect(visit.page.locator("#status")).to_have_text(re.compile(r"is away: nothing came for \d+ s\. Trying again\.$"))
        finally:
            service.process.send_signal(signal.SIGCONT)
        expect(visit.page.locator("#status")).to_have_text("Camera: running.")
        visit.runs()


@pytest.fixture
def restarted(tmp_path: Path) -> Iterator[int]:
    """A port for a service that comes back at the same address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    yield port


def test_it_goes_on_after_a_restart_of_the_service(browser: Browser, tmp_path: Path, restarted: int) -> None:
    with visiting(browser, f"http://127.0.0.1:{restarted}") as visit:
        visit.allowed.append("ERR_CONNECTION|WebSocket")  # as Chromium notes that nobody is there
        with running_service(tmp_path, port=restarted) as service:
            visit.open()
            visit.play("Use the camera")
            service.stop()
        expect(visit.page.locator("#status")).to_have_text(re.compile(r"^The service is (restarting|away): .* Trying again\.$"))
        expect(visit.figure("Frames shown")).to_have_text("0.0 fps")
        with running_service(tmp_path, port=restarted):
            visit.runs()
            expect(visit.page.locator("#status")).to_have_text("Camera: running.")
