"""Planar YUV 4:2:0 and packed RGB in and out of a network, as layers: uint8 at both borders, everything else inside the graph.

Knows nothing of particular networks. A network that ends in convolution, clip and pixel shuffle (it has `subpixels`) is
converted at low resolution, before its shuffle: the arithmetic is that of the RGB path, and a quarter of the bytes move. The
shuffle itself is left to whoever runs the graph; see `engines.shuffle`. Other networks are converted at output size.

Chroma is sited as in MPEG-2 and H.264 by default (left): a chroma sample lies on an even luma column, between two luma rows.
"""

import copy
import math
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@runtime_checkable
class SubpixelNetwork(Protocol):
    """A network whose last two steps are a clip to 0..1 and a pixel shuffle."""

    def subpixels(self, rgb: Tensor) -> Tensor: ...


class HalfPrecision(nn.Module):
    """A subpixel network in FP16 between FP32 borders: colours are converted and rounded as in FP32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def subpixels(self, rgb: Tensor) -> Tensor:
        """As the network's own, float32 in and out."""
        return cast(SubpixelNetwork, self.network).subpixels(rgb.half()).float()

    def forward(self, rgb: Tensor) -> Tensor:
        """[N, 3, H, W] RGB in 0..1 -> [N, 3, scale * H, scale * W] in 0..1."""
        subpixels = self.subpixels(rgb).clamp(0, 1)
        return F.pixel_shuffle(subpixels, math.isqrt(subpixels.shape[1] // 3))


class YuvToRgb(nn.Module):
    """uint8 planes -> float RGB in 0..1 (outside it for YUV codes that no RGB colour has)."""

    chroma_kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        vertical = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])  # between two rows
        horizontal = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])  # on a column; between two columns
        kernel = torch.einsum("ai,bj->abij", vertical, horizontal).reshape(4, 1, 3, 3)
        self.register_buffer("chroma_kernel", kernel, persistent=False)

    def forward(self, y: Tensor, u: Tensor, v: Tensor, yuv_to_rgb: Tensor) -> Tensor:
        """y [N, 1, H, W], u and v [N, 1, ceil(H/2), ceil(W/2)] uint8, yuv_to_rgb [3, 4] -> [N, 3, H, W] float32."""
        chroma = F.pad(torch.cat([u.float(), v.float()], dim=1), (1, 1, 1, 1), mode="replicate")
        chroma = F.conv2d(chroma, self.chroma_kernel.repeat(2, 1, 1, 1), groups=2)
        chroma = F.pixel_shuffle(chroma, 2)[:, :, : y.shape[2], : y.shape[3]]
        yuv = torch.cat([y.float(), chroma], dim=1)
        return F.conv2d(yuv, yuv_to_rgb[:, :3, None, None], yuv_to_rgb[:, 3])


class SubpixelsToYuv(nn.Module):
    """Subpixels of RGB -> subpixels of Y, U and V as one 1x1 convolution, at low resolution.

    Chroma is taken on even output columns (where it is sited) and averaged over two output rows.
    """

    plane: Tensor
    phases: Tensor

    def __init__(self, scale: int) -> None:
        """Args: scale: even, so that chroma samples never straddle two input pixels."""
        super().__init__()
        identity = torch.eye(scale**2).reshape(scale**2, scale, scale)  # [phase, dy, dx]
        chroma = (identity[:, 0::2] + identity[:, 1::2])[:, :, 0::2] / 2  # [phase, dy / 2, dx / 2]
        luma, chroma = identity.flatten(1).T, chroma.flatten(1).T  # [Y or chroma phases, RGB phases]
        plane = torch.repeat_interleave(torch.eye(3), torch.tensor([len(luma), len(chroma), len(chroma)]), dim=0)
        phases = torch.cat([luma, chroma, chroma])
        self.register_buffer("plane", plane, persistent=False)  # [out, 3]: which of Y, U and V a phase belongs to
        self.register_buffer("phases", phases, persistent=False)  # [out, s * s]: which RGB phases it is made of

    def forward(self, subpixels: Tensor, rgb_to_yuv: Tensor) -> Tensor:
        """[N, 3 * s * s, H, W] unclipped RGB, rgb_to_yuv [3, 4] -> [N, H, W, 1.5 * s * s] uint8: Y, then U, then V phases."""
        coefficients = self.plane @ rgb_to_yuv  # [out, 4]
        weight = (coefficients[:, :3, None] * self.phases[:, None, :]).flatten(1)  # [out, 3 * s * s]
        yuv = F.conv2d(subpixels.clamp(0, 1), weight[:, :, None, None], coefficients[:, 3])
        return _to_uint8(yuv.permute(0, 2, 3, 1))


class RgbToYuv(nn.Module):
    """RGB in 0..1 at output size -> uint8 planes; an odd last row or column is lost. Chroma as in `SubpixelsToYuv`."""

    def forward(self, rgb: Tensor, rgb_to_yuv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 3, H, W] float, rgb_to_yuv [3, 4] -> y [N, 1, H', W'], u and v [N, 1, H'/2, W'/2]; H', W' even."""
        rgb = rgb[:, :, : rgb.shape[2] // 2 * 2, : rgb.shape[3] // 2 * 2]
        y = F.conv2d(rgb, rgb_to_yuv[:1, :3, None, None], rgb_to_yuv[:1, 3])
        columns = rgb[:, :, :, 0::2]
        pairs = (columns[:, :, 0::2] + columns[:, :, 1::2]) / 2
        chroma = F.conv2d(pairs, rgb_to_yuv[1:, :3, None, None], rgb_to_yuv[1:, 3])
        return _to_uint8(y), _to_uint8(chroma[:, :1]), _to_uint8(chroma[:, 1:])


class YuvSubpixelGraph(nn.Module):
    """A subpixel network of even scale as it serves video: uint8 planes in, uint8 phases [N, H, W, 1.5 * s * s] out."""

    def __init__(self, network: nn.Module, scale: int) -> None:
        super().__init__()
        self.network, self.to_rgb, self.to_yuv = network, YuvToRgb(), SubpixelsToYuv(scale)

    def forward(self, y: Tensor, u: Tensor, v: Tensor, yuv_to_rgb: Tensor, rgb_to_yuv: Tensor) -> Tensor:
        network = cast(SubpixelNetwork, self.network)
        phases: Tensor = self.to_yuv(network.subpixels(self.to_rgb(y, u, v, yuv_to_rgb)), rgb_to_yuv)
        return phases


class YuvGraph(nn.Module):
    """Any network as it serves video: uint8 planes in, uint8 planes out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.to_rgb, self.to_yuv = network, YuvToRgb(), RgbToYuv()

    def forward(self, y: Tensor, u: Tensor, v: Tensor, yuv_to_rgb: Tensor, rgb_to_yuv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        planes: tuple[Tensor, Tensor, Tensor] = self.to_yuv(self.network(self.to_rgb(y, u, v, yuv_to_rgb)), rgb_to_yuv)
        return planes


class RgbSubpixelGraph(nn.Module):
    """A subpixel network as it serves pictures: uint8 [N, H, W, 3] in, uint8 phases [N, H, W, s * s * 3] out."""

    def __init__(self, network: nn.Module, scale: int) -> None:
        super().__init__()
        self.network = network
        self.order = torch.arange(3 * scale**2).reshape(3, scale**2).T.flatten().tolist()  # colour last

    def forward(self, rgb: Tensor) -> Tensor:
        subpixels = cast(SubpixelNetwork, self.network).subpixels(_from_uint8(rgb))
        return _to_uint8((subpixels[:, self.order].clamp(0, 1) * 255).permute(0, 2, 3, 1))


class RgbGraph(nn.Module):
    """Any network as it serves pictures: uint8 [N, H, W, 3] in, uint8 [N, s * H, s * W, 3] out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rgb: Tensor) -> Tensor:
        return _to_uint8((self.network(_from_uint8(rgb)) * 255).permute(0, 2, 3, 1))


def _from_uint8(rgb: Tensor) -> Tensor:
    return rgb.float().permute(0, 3, 1, 2) / 255


def _to_uint8(codes: Tensor) -> Tensor:
    return codes.round().clamp(0, 255).to(torch.uint8)
