"""Reading and writing pictures: the right pixels of every kind, and a clear no to everything else."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.errors import ServiceError
from server.pictures import Picture, check_result, read_picture, write_picture
from tests.support.pictures import encoded, hostile_pictures, png, ramp

MAX_PIXELS = 1 << 20


def read(file: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    return read_picture(io.BytesIO(file), max_pixels)


def deep_colours(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write."""
    lines = b"".join(b"\0" + line.repeat(3).astype(">u2").tobytes() for line in values)
    return png((values.shape[1], values.shape[0], 16, 2), lines)


def doubled(picture: Picture) -> np.ndarray:
    return picture.rgb.repeat(2, axis=0).repeat(2, axis=1)


def test_every_kind_of_pixels_becomes_eight_bit_rgb() -> None:
    colours = ramp(40, 30)
    grey = colours[..., 0]
    deep = grey.astype(np.uint16) * 256 + 77
    for kind, file, expected in (
        ("rgb", encoded(colours, "PNG"), colours),
        ("grey", encoded(grey, "PNG"), np.dstack([grey] * 3)),
        ("16-bit grey", encoded(deep, "PNG"), np.dstack([grey] * 3)),
        ("16-bit colours", deep_colours(deep), np.dstack([grey] * 3)),
        ("one bit", encoded(Image.fromarray(grey).point(lambda v: v > 128, "1"), "PNG"), np.dstack([(grey > 128) * 255] * 3)),
        ("lossless webp", encoded(colours, "WEBP", lossless=True), colours),
        ("one pixel", encoded(colours[:1, :1], "PNG"), colours[:1, :1]),
    ):
        picture = read(file)
        assert np.array_equal(picture.rgb, expected), kind
        assert picture.rgb.dtype == np.uint8 and picture.alpha is None, kind


def test_cmyk_is_converted_by_the_plain_formula() -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 200, 100  # much cyan, some black
    picture = read(encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100))
    expected = [255 * (1 - 200 / 255) * (1 - 100 / 255), 155, 155]
    assert np.abs(picture.rgb.reshape(-1, 3).mean(axis=0) - expected).max() < 3


def test_alpha_is_kept_whatever_says_it() -> None:
    colours, alpha = ramp(40, 30), np.tile(np.arange(30, dtype=np.uint8) * 8, (40, 1))
    rgba = np.dstack([colours, alpha])
    grey = np.tile(np.arange(30, dtype=np.uint16) * 1000, (40, 1))
    see_through = (grey != 5000) * 255
    palette = Image.fromarray(colours).quantize(16)
    palette_alpha = (np.asarray(palette) != 3) * 255
    for kind, file, expected in (
        ("rgba", encoded(rgba, "PNG"), alpha),
        ("webp", encoded(rgba, "WEBP", lossless=True), alpha),
        ("grey", encoded(Image.fromarray(rgba).convert("LA"), "PNG"), alpha),
        ("palette", encoded(palette, "PNG", transparency=3), palette_alpha),
        ("one colour of 16 bits", encoded(grey, "PNG", transparency=5000), see_through),
    ):
        assert np.array_equal(np.asarray(read(file).alpha), expected), kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_as_exif_says(orientation: int) -> None:
    colours, exif = ramp(40, 30), Image.Exif()
    exif[0x0112] = orientation
    upright = {1: colours, 2: colours[:, ::-1], 3: colours[::-1, ::-1], 4: colours[::-1]}
    turned = colours.swapaxes(0, 1)
    upright |= {5: turned, 6: turned[:, ::-1], 7: turned[::-1, ::-1], 8: turned[::-1]}
    assert np.array_equal(read(encoded(colours, "PNG", exif=exif)).rgb, upright[orientation])


def test_damaged_exif_data_do_not_spoil_a_picture() -> None:
    colours = ramp(40, 30)
    for exif in (
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\1\0\0\0" * 9,
        b"Exif\0\0",
    ):
        assert np.array_equal(read(encoded(colours, "PNG", exif=exif)).rgb, colours)


def test_an_rgb_profile_goes_over_and_others_do_not() -> None:
    colours = ramp(16, 16)
    profile, grey_profile = (b"\0" * 16 + space + b"\0" * 108 for space in (b"RGB ", b"GRAY"))
    for to in ("PNG", "JPEG", "WEBP"):
        picture = read(encoded(colours, "PNG", icc_profile=profile))
        with Image.open(write_picture(picture, doubled(picture), to)) as result:
            assert result.info["icc_profile"] == profile
        picture = read(encoded(colours[..., 0], "PNG", icc_profile=grey_profile))
        with Image.open(write_picture(picture, doubled(picture), to)) as result:
            assert not result.info.get("icc_profile")


def test_what_is_written_is_what_was_upscaled() -> None:
    rgba = np.dstack([ramp(40, 30), np.full((40, 30), 130, np.uint8)])
    picture = read(encoded(rgba, "PNG"))
    for to, mode, largest_error in (("PNG", "RGBA", 0), ("WEBP", "RGBA", 40), ("JPEG", "RGB", 40)):
        with Image.open(write_picture(picture, doubled(picture), to)) as result:
            assert (result.format, result.mode, result.size) == (to, mode, (60, 80))
            error = np.asarray(result.convert("RGB")).astype(int) - doubled(picture)
            assert np.abs(error).max() <= largest_error
            assert mode == "RGB" or set(np.unique(np.asarray(result)[..., 3])) == {130}


def test_quality_is_obeyed() -> None:
    picture = read(encoded(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8), "PNG"))
    for to in ("JPEG", "WEBP"):
        low, high = (len(write_picture(picture, picture.rgb, to, quality).getbuffer()) for quality in (20, 95))
        assert low < high / 2


@pytest.mark.parametrize("name", hostile_pictures())
def test_refused_for_the_right_reason(name: str) -> None:
    file, code = hostile_pictures()[name]
    with pytest.raises(ServiceError) as caught:
        read(file)
    assert caught.value.code == code
    assert "<_io" not in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize("name", [name for name in hostile_pictures() if "bomb" in name])
def test_bombs_take_no_memory(name: str) -> None:
    file, _ = hostile_pictures()[name]
    tracemalloc.start()
    before = resident_bytes()
    with pytest.raises(ServiceError, match="12000x12000 pixels; at most 1048576"):
        read(file)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert resident_bytes() - before < 16 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_seeded_damage_is_refused_or_decoded_and_never_anything_else() -> None:
    random = np.random.default_rng(3)
    rgba = np.dstack([ramp(40, 30), ramp(40, 30)[..., 0]])
    files = [encoded(rgba, "PNG"), encoded(rgba, "WEBP"), encoded(rgba[..., :3], "JPEG", progressive=True)]
    refused = 0
    for _ in range(600):
        file = bytearray(files[random.integers(len(files))])
        for position in random.integers(0, len(file), random.integers(0, 5)):
            file[position] = random.integers(256)
        try:
            read(bytes(file[: random.integers(1, len(file) + 1)]))
        except ServiceError as error:
            assert error.code in ("unreadable", "unsupported_type", "dimensions")
            refused += 1
    assert 100 < refused < 600


def test_results_that_are_too_large_are_refused_beforehand() -> None:
    check_result(4000, 10, 4, "WEBP", max_pixels=640_000)
    for arguments, words in (
        ((4000, 11, 4, "PNG", 640_000), "16000x44 pixels; at most 640000"),
        ((4096, 1, 4, "WEBP"), "WEBP has at most 16383"),
        ((16384, 1, 4, "JPEG"), "JPEG has at most 65500"),
    ):
        with pytest.raises(ServiceError, match=words) as caught:
            check_result(*arguments)
        assert caught.value.code == "dimensions"
