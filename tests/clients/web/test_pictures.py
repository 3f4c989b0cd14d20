"""A picture on the web page: chosen or dropped, before and after, the line between them."""

import base64
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Visit, visiting
from tests.support.pictures import encoded, ramp
from tests.support.service import RunningService

SIZE = (96, 64)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    path.write_bytes(encoded(ramp(SIZE[1], SIZE[0]), "PNG"))
    return path


def choose(visit: Visit, picture: Path) -> None:
    """Bicubic, so that no network has to be compiled."""
    visit.page.select_option("#model", "bicubic")
    visit.page.set_input_files("#file", picture)
    expect(visit.page.locator("#compare")).to_be_visible()


def split(page: Page) -> int:
    """Percent of the picture that shows what was before."""
    clip: str = page.locator("canvas.after").evaluate("canvas => getComputedStyle(canvas).clipPath")
    return round(float(clip.split("(")[1].split()[-1].rstrip("%)")))


def test_a_picture_is_upscaled_and_can_be_saved(visit: Visit, picture: Path, tmp_path: Path) -> None:
    choose(visit, picture)
    assert (visit.size("before"), visit.size("after")) == (SIZE, (SIZE[0] * 4, SIZE[1] * 4))
    for place in ((0.2, 0.3), (0.5, 0.5), (0.9, 0.8)):  # the same picture, on both sides
        before, after = visit.pixel("before", *place), visit.pixel("after", *place)
        assert max(abs(a - b) for a, b in zip(before, after, strict=True)) < 12
    expect(visit.figure("Model")).to_have_text("bicubic")
    expect(visit.figure("Size")).to_have_text("384 × 256")
    expect(visit.page.get_by_role("status").first).to_have_text("small.png: upscaled by bicubic.")
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Save the result").click()
    assert download.value.suggested_filename == "small-x4.png"
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_upscaled_again_when_the_settings_change(visit: Visit, picture: Path) -> None:
    choose(visit, picture)
    visit.page.select_option("#scale", "2")
    expect(visit.figure("Size")).to_have_text("192 × 128")
    assert visit.size("after") == (192, 128)
    visit.page.get_by_role("button", name="Close").click()
    expect(visit.page.get_by_text("Drop a picture or a clip here")).to_be_visible()
    expect(visit.page.locator("#compare")).to_be_hidden()


def test_pictures_that_are_replaced_take_no_memory(browser: Browser, service: RunningService, picture: Path) -> None:
    count = """globalThis.held = 0;
        const {createImageBitmap: decode} = globalThis;
        globalThis.createImageBitmap = async (...all) => { const made = await decode(...all); held += 1; return made; };
        const counts = (owner, name, by) => { const plain = owner[name];
            owner[name] = function (...all) { held += by; return plain.apply(this, all); }; };
        counts(ImageBitmap.prototype, "close", -1);
        counts(URL, "createObjectURL", 1);
        counts(URL, "revokeObjectURL", -1);"""
    with visiting(browser, service.url) as visit:
        visit.allowed.append("422")
        visit.page.add_init_script(count)
        visit.open()
        choose(visit, picture)
        for scale, size in (("2", "192 × 128"), ("3", "288 × 192"), ("4", "384 × 256")):
            visit.page.select_option("#scale", scale)
            expect(visit.figure("Size")).to_have_text(size)
        (large := picture.with_name("large.png")).write_bytes(encoded(ramp(400, 400), "PNG"))
        visit.page.set_input_files("#file", large)
        expect(visit.page.get_by_role("alert").first).to_contain_text("This size does not work: ")
        assert visit.page.evaluate("held") == 1  # the result that can be saved


def test_a_picture_that_fails_leaves_the_one_before(visit: Visit, picture: Path) -> None:
    choose(visit, picture)
    (broken := picture.with_name("broken.png")).write_bytes(b"\x89PNG\r\n\x1a\n")
    visit.page.set_input_files("#file", broken)
    expect(visit.page.get_by_role("alert").first).to_contain_text("broken.png: this browser cannot show it.")
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Save the result").click()
    assert download.value.suggested_filename == "small-x4.png"
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    visit.page.select_option("#scale", "2")
    expect(visit.page.get_by_role("status").first).to_have_text("small.png: upscaled by bicubic.")
    expect(visit.figure("Size")).to_have_text("192 × 128")


def test_a_picture_can_be_dropped(visit: Visit, picture: Path) -> None:
    visit.page.select_option("#model", "bicubic")
    script = """text => { const data = new DataTransfer();
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        data.items.add(new File([bytes], "dropped.png", {type: "image/png"})); return data; }"""
    data = visit.page.evaluate_handle(script, base64.b64encode(picture.read_bytes()).decode())
    visit.page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    expect(visit.page.get_by_role("status").first).to_have_text("dropped.png: upscaled by bicubic.")


def test_the_line_follows_mouse_and_arrow_keys(visit: Visit, picture: Path) -> None:
    choose(visit, picture)
    page = visit.page
    slider = page.get_by_role("slider", name="Line between before and after")
    assert split(page) == 50
    box = page.locator(".frame").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 60, steps=4)
    page.mouse.up()
    assert split(page) == 25
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 60)
    assert split(page) == 25  # it was let go
    slider.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    assert split(page) == 27
    expect(slider).to_have_attribute("aria-valuetext", "27 % before, 73 % after")
    page.keyboard.press("End")
    assert split(page) == 100


def test_pixels_can_be_seen_one_to_one(visit: Visit, picture: Path) -> None:
    choose(visit, picture)
    visit.page.get_by_role("button", name="Actual pixels").click()
    assert visit.page.locator("canvas.after").evaluate("canvas => canvas.clientWidth") == SIZE[0] * 4
    expect(visit.page.get_by_role("button", name="Actual pixels")).to_have_attribute("aria-pressed", "true")


def test_what_the_service_refuses_is_said(visit: Visit, tmp_path: Path) -> None:
    visit.allowed.append("422")  # Chromium notes each refusal
    large = tmp_path / "large.png"
    large.write_bytes(encoded(ramp(400, 400), "PNG"))
    visit.page.set_input_files("#file", large)
    expect(visit.page.get_by_role("alert").first).to_contain_text("This size does not work: ")
    expect(visit.page.get_by_role("alert").first).to_contain_text("120000")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    visit.page.set_input_files("#file", broken)
    expect(visit.page.get_by_role("alert").first).to_have_text(
        "broken.png: this browser cannot show it. Try PNG, JPEG or WebP."
    )


def test_a_model_that_is_gone_is_said(visit: Visit, picture: Path) -> None:
    visit.allowed.append("404")
    visit.page.locator("#model").evaluate("select => select.selectedOptions[0].value = 'gone'")
    visit.page.set_input_files("#file", picture)
    expect(visit.page.get_by_role("alert").first).to_contain_text("No such model: ")
    expect(visit.page.get_by_role("alert").first).to_contain_text("bicubic")
