"""Tiles: they cover a picture, are of one size, and nobody can tell that there were any."""

import numpy as np
import pytest

from engines.engine import LocalEngine
from models.resize import UInt8Image
from server.tiles import MARGIN, TILE_PIXELS, plan_tiles, upscale
from tests.support.engines import run, spec_of

SIZES = [
    (1, 1),
    (47, 97),
    (96, 96),
    (1024, 1024),
    (1025, 1024),
    (1080, 1920),
    (2048, 2048),
    (4096, 4096),
    (65535, 64),
    (1, 65535),
]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("tile_pixels", [20_000, TILE_PIXELS])
def test_tiles_are_of_one_size_and_have_their_margin(height: int, width: int, tile_pixels: int) -> None:
    rows, columns = plan_tiles(height, width, tile_pixels)
    assert (rows[0].stop - rows[0].start) * (columns[0].stop - columns[0].start) <= max(tile_pixels, 1)
    for length, spans in ((height, rows), (width, columns)):
        assert len({span.stop - span.start for span in spans}) == 1
        kept = np.concatenate([np.arange(span.kept_start, span.kept_stop) for span in spans])
        assert np.array_equal(kept, np.arange(length))
        for span in spans:
            assert span.start >= 0 and span.stop <= length
            assert span.kept_start - span.start >= MARGIN or span.start == 0
            assert span.stop - span.kept_stop >= MARGIN or span.stop == length


def noise(height: int, width: int) -> UInt8Image:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("model", ["bicubic", "xlsr", "swift-srgan-psnr"])
def test_nobody_can_tell_that_there_were_tiles(model: str) -> None:
    picture = noise(230, 310)
    whole = run("openvino", spec_of(model, 4, "rgb", None, None), (picture,))[0]
    rows, columns = plan_tiles(230, 310, 25_000)
    assert (len(rows), len(columns)) == (2, 4)
    spec = spec_of(model, 4, "rgb", columns[0].stop, rows[0].stop)
    with LocalEngine("openvino", spec, 1) as engine:
        slot = engine.pool.slots[0]

        def upscale_tile(tile: UInt8Image) -> UInt8Image:
            np.copyto(slot.inputs[0], tile)
            engine.submit(slot).result()
            return slot.outputs[0]

        tiled = upscale(picture, 4, upscale_tile, 25_000)
    assert np.array_equal(tiled, whole)
