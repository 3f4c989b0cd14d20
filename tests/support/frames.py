"""Made-up pictures and frames, and the shuffle of what the graphs give, written for clarity."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F


def natural(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """[height, width, 3] RGB with the falling spectrum of a photograph: soft shapes, some detail, colours that go together."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    spectrum = 1 / np.maximum(frequency, 1 / max(height, width)) ** 1.5
    layers = [np.fft.ifft2(np.fft.fft2(random.standard_normal((height, width))) * spectrum).real for _ in range(4)]
    grey, *tints = [layer / layer.std() for layer in layers]
    picture = np.stack([128 + 35 * grey + 12 * tint for tint in tints], axis=-1)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def frame_from_rgb(rgb: npt.NDArray[np.uint8], rgb_to_yuv: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor, Tensor]:
    """The planes [1, 1, H, W] of `rgb` [H, W, 3] with even sides; chroma on even columns, averaged over two rows."""
    yuv = np.concatenate([rgb / 255, np.ones_like(rgb[..., :1])], axis=-1) @ rgb_to_yuv.T
    chroma = (yuv[0::2, 0::2] + yuv[1::2, 0::2]) / 2
    planes = (yuv[..., 0], chroma[..., 1], chroma[..., 2])
    y, u, v = (torch.from_numpy(np.clip(np.round(plane), 0, 255).astype(np.uint8))[None, None] for plane in planes)
    return y, u, v


def planes_from(output: Tensor | tuple[Tensor, ...], scale: int) -> tuple[Tensor, ...]:
    """y [N, 1, H, W], u and v of half its sides, from what a YUV graph gives: planes already, or phases."""
    if isinstance(output, tuple):
        return output
    chroma = (scale // 2) ** 2
    parts = output.permute(0, 3, 1, 2).split([scale**2, chroma, chroma], dim=1)
    factors = (scale, scale // 2, scale // 2)
    return tuple(F.pixel_shuffle(part, factor) for part, factor in zip(parts, factors, strict=True))


def picture_from(output: Tensor, scale: int) -> Tensor:
    """[N, s * H, s * W, 3] from what an RGB graph gives: the picture already, or phases."""
    count, height, width, channels = output.shape
    if channels == 3:
        return output
    blocks = output.reshape(count, height, width, scale, scale, 3)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(count, height * scale, width * scale, 3)


def psnr(first: Tensor, second: Tensor) -> float:
    """In dB against a peak of 255."""
    return float(10 * torch.log10(255**2 / torch.mean((first.double() - second.double()) ** 2)))
