"""Frames in, frames out: any size, colours where they were, the picture that the RGB path gives."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.bicubic import Bicubic, BicubicConfig
from models.checkpoint import load_checkpoint
from models.colour import Colour
from models.export import example, folded, serving_graph
from models.registry import build_network, find_model
from models.video_io import RgbGraph, RgbToYuv, YuvGraph, YuvToRgb
from tests.support.frames import frame_from_rgb, natural, picture_from, planes_from, psnr

BT709 = Colour("bt709", "limited")
CODES = torch.cat([torch.eye(3), torch.zeros(3, 1)], dim=1)
"""Coefficients that leave YUV as it is, so that what happens to chroma can be seen."""


def xlsr() -> nn.Module:
    network = build_network("xlsr", 4).eval()
    load_checkpoint(network, find_model("xlsr", 4).checkpoint)
    return network


def bicubic(scale: int) -> nn.Module:
    return Bicubic(BicubicConfig(scale=scale)).eval()


def coefficients(colour: Colour) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(colour.yuv_to_rgb()), torch.from_numpy(colour.rgb_to_yuv())


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(23, 37), (1, 1), (1, 8), (6, 5)])
@torch.no_grad()
def test_any_size_goes_in(scale: int, height: int, width: int) -> None:
    graph, _ = serving_graph(bicubic(scale), scale, "yuv420")
    y, u, v = planes_from(graph(*example("yuv420", height, width)), scale)
    large = (height * scale // 2 * 2, width * scale // 2 * 2)
    assert y.shape == (1, 1, *large)
    assert u.shape == v.shape == (1, 1, large[0] // 2, large[1] // 2)
    assert y.dtype == u.dtype == v.dtype == torch.uint8


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("span", ["limited", "full"])
@torch.no_grad()
def test_a_flat_frame_keeps_its_codes(scale: int, span: str) -> None:
    graph, _ = serving_graph(bicubic(scale), scale, "yuv420")
    flat = [
        torch.full(shape, code, dtype=torch.uint8)
        for shape, code in (((1, 1, 5, 7), 90), ((1, 1, 3, 4), 110), ((1, 1, 3, 4), 150))
    ]
    planes = planes_from(graph(*flat, *coefficients(Colour("bt601", span))), scale)
    assert [plane.unique().tolist() for plane in planes] == [[90], [110], [150]]


@torch.no_grad()
def test_a_frame_of_a_batch_is_the_frame_alone() -> None:
    graph, _ = serving_graph(bicubic(4), 4, "yuv420")
    y, u, v = (torch.randint(0, 256, shape, dtype=torch.uint8) for shape in ((2, 1, 6, 8), (2, 1, 3, 4), (2, 1, 3, 4)))
    both = graph(y, u, v, *coefficients(BT709))
    assert torch.equal(both[1:], graph(y[1:], u[1:], v[1:], *coefficients(BT709)))


@pytest.mark.parametrize("scale", [2, 4])
@torch.no_grad()
def test_both_ways_to_planes_are_one(scale: int) -> None:
    """At low resolution before the shuffle, or at output size after it."""
    inputs = example("yuv420", 9, 12)
    phases = serving_graph(bicubic(scale), scale, "yuv420")[0](*inputs)
    for fast, plain in zip(planes_from(phases, scale), YuvGraph(bicubic(scale))(*inputs), strict=True):
        assert (fast.int() - plain.int()).abs().max() <= 1
        assert torch.mean((fast != plain).float()) < 1e-2


@torch.no_grad()
def test_both_ways_to_pictures_are_one() -> None:
    inputs = example("rgb", 9, 12)
    phases = serving_graph(xlsr(), 4, "rgb")[0](*inputs)
    assert torch.equal(picture_from(phases, 4), RgbGraph(xlsr())(*inputs))


@pytest.mark.parametrize("network", ["xlsr-4", "bicubic-2", "bicubic-3", "bicubic-4"])
@torch.no_grad()
def test_video_path_gives_the_luma_of_the_picture_path(network: str) -> None:
    scale = int(network[-1])
    upscaler = folded(xlsr()) if network.startswith("xlsr") else bicubic(scale)
    frame = frame_from_rgb(natural(96, 128), BT709.rgb_to_yuv())
    yuv_to_rgb, rgb_to_yuv = coefficients(BT709)
    video, _ = serving_graph(upscaler, scale, "yuv420")
    y, _, _ = planes_from(video(*frame, yuv_to_rgb, rgb_to_yuv), scale)
    rgb = (YuvToRgb()(*frame, yuv_to_rgb) * 255).round().clamp(0, 255).to(torch.uint8)
    picture = RgbGraph(upscaler)(rgb.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).float() / 255
    assert psnr(y, RgbToYuv()(picture, rgb_to_yuv)[0]) >= 45


@torch.no_grad()
def test_chroma_is_read_where_it_is_sited() -> None:
    """Chroma column i lies on luma column 2 i; chroma row i between luma rows 2 i and 2 i + 1."""
    height, width = 12, 16
    luma = torch.zeros(1, 1, height, width, dtype=torch.uint8)
    across = (100 + 4 * torch.arange(8)).expand(1, 1, 6, 8).to(torch.uint8)
    down = (100 + 8 * torch.arange(6))[:, None].expand(1, 1, 6, 8).to(torch.uint8)
    _, u, v = YuvToRgb()(luma, across, down, CODES)[0]
    torch.testing.assert_close(u[:, :-1], (100 + 2.0 * torch.arange(width - 1)).expand(height, -1))
    rows = 100 + 4 * (torch.arange(height) - 0.5)
    torch.testing.assert_close(v[1:-1], rows[1:-1, None].expand(-1, width))
    assert (u[:, -1] == across[0, 0, 0, -1]).all() and (v[0] == 100).all() and (v[-1] == 140).all()  # edges are repeated


@pytest.mark.parametrize("scale", [2, 3, 4])
@torch.no_grad()
def test_chroma_ramps_stay_where_they_are(scale: int) -> None:
    """From one frame to a larger one, chroma stays with the luma that it colours."""
    small, rows = (24, 32), torch.arange(12)
    luma = torch.full((1, 1, *small), 126, dtype=torch.uint8)
    across = (112 + 2 * torch.arange(16)).expand(1, 1, 12, 16).to(torch.uint8)
    down = (106 + 4 * rows)[:, None].expand(1, 1, 12, 16).to(torch.uint8)
    graph, _ = serving_graph(bicubic(scale), scale, "yuv420")
    _, u, v = planes_from(graph(luma, across, down, *coefficients(BT709)), scale)

    columns = 2 * np.arange(u.shape[3])  # output luma column of each chroma sample
    at = (columns + 0.5) / scale - 0.5  # the same place in the input
    inner = slice(3 * scale, -3 * scale)
    assert np.abs(u[0, 0].numpy() - (112 + 2 * at / 2))[inner, inner].max() <= 0.51
    lines = 2 * np.arange(v.shape[2]) + 0.5
    at = (lines + 0.5) / scale - 0.5
    assert np.abs(v[0, 0].numpy() - (106 + 4 * (at - 0.5) / 2)[:, None])[inner, inner].max() <= 0.51


@torch.no_grad()
def test_codes_beyond_white_are_clipped() -> None:
    graph, _ = serving_graph(bicubic(4), 4, "yuv420")
    white, grey = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8), torch.full((1, 1, 2, 2), 128, dtype=torch.uint8)
    y, u, v = planes_from(graph(white, grey, grey, *coefficients(BT709)), 4)
    assert [plane.unique().tolist() for plane in (y, u, v)] == [[235], [128], [128]]
