"""Reading and writing pictures, PNG, JPEG and WebP: for the command line and for the service. Knows nothing of engines.

What is read becomes 8-bit RGB, with alpha beside it: of 16 bits the high ones are taken, palettes and grey are expanded, CMYK
is converted by the plain formula, EXIF rotation is applied, and of an animation the first picture counts. An RGB colour
profile goes over into the result, whose values are meant in the same way; one of grey or CMYK would be wrong there. No other
metadata is kept.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from models.resize import UInt8Image
from server.errors import ServiceError

PictureFormat = Literal["PNG", "JPEG", "WEBP"]

FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)

MAX_SIDE: dict[PictureFormat, int] = {"PNG": 2**31 - 1, "JPEG": 65500, "WEBP": 16383}
"""Pixels that a picture of each format can have in one direction."""

QUALITY = 95
"""Of JPEG and WebP where nobody says."""

Image.MAX_IMAGE_PIXELS = None  # `read_picture` has a limit of its own, and says more

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_SAVE: dict[PictureFormat, dict[str, Any]] = {
    "PNG": {"compress_level": 1},  # a fifth of the time of the default for 15 % more bytes
    "JPEG": {},
    "WEBP": {"method": 2},  # half the time of the default for 2 % more bytes
}


@dataclass(frozen=True)
class Picture:
    """A picture as engines take it."""

    rgb: UInt8Image  # [H, W, 3]
    alpha: Image.Image | None  # mode L, of the same size
    profile: bytes | None  # an ICC profile of RGB values


def read_picture(file: BinaryIO, max_pixels: int) -> Picture:
    """Decodes a picture, whatever its name or type said.

    Args:
        file: seekable.
        max_pixels: refused from its header, before memory is taken, if it has more.

    Raises:
        ServiceError: unsupported_type, unreadable or dimensions.
    """
    head = file.read(32)
    file.seek(0)
    if not _is_known(head):
        raise ServiceError("unsupported_type", "this is not a PNG, JPEG or WebP picture")
    try:
        _check_pixels(_webp_size(head), max_pixels)  # Pillow takes memory for WebP as soon as it opens it
        with Image.open(file, formats=FORMATS) as picture:
            _check_pixels(picture.size, max_pixels)
            return _converted(picture)
    except (ServiceError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ServiceError("unreadable", "the picture is empty, cut off or damaged at its start") from error
    except Exception as error:  # Pillow has no border of its own: a damaged file may raise anything
        raise ServiceError("unreadable", f"the picture is damaged or cut off ({error})") from error


def check_result(width: int, height: int, scale: int, to: PictureFormat, max_pixels: int | None = None) -> None:
    """Checks what a picture of `width` x `height` pixels becomes.

    Raises:
        ServiceError: dimensions: it is more than `max_pixels`, or more than the format `to` can hold.
    """
    width, height = width * scale, height * scale
    if max_pixels is not None and width * height > max_pixels:
        raise ServiceError("dimensions", f"the result would have {width}x{height} pixels; at most {max_pixels} are made")
    if max(width, height) > MAX_SIDE[to]:
        limit = f"{to} has at most {MAX_SIDE[to]} in one direction; ask for PNG"
        raise ServiceError("dimensions", f"the result would have {width}x{height} pixels; {limit}")


def write_picture(picture: Picture, large: UInt8Image, to: PictureFormat, quality: int = QUALITY) -> BytesIO:
    """Encodes `large`, which `picture` became, with its alpha interpolated bicubically; JPEG has none, there it is dropped."""
    result, target = Image.fromarray(large), BytesIO()
    if picture.alpha is not None and to != "JPEG":
        result.putalpha(picture.alpha.resize(result.size, Image.Resampling.BICUBIC))
    result.save(target, to, quality=quality, icc_profile=picture.profile, **_SAVE[to])
    return target


def _is_known(head: bytes) -> bool:
    """Whether a file starts like a format that we read, as far as it goes."""
    if b"RIFF".startswith(head[:4]):
        return b"WEBP".startswith(head[8:12])
    return any(magic.startswith(head[: len(magic)]) for magic in _MAGIC)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height in the header of a WebP file (RFC 9649), 0 where there is none."""
    kind, data = head[12:16], head[20:]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    return 0, 0


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ServiceError("dimensions", f"the picture has {width}x{height} pixels; at most {max_pixels} can be upscaled")


def _converted(picture: Image.Image) -> Picture:
    """An opened picture, upright, as RGB and alpha."""
    picture.load()
    upright = _eight_bits(_upright(picture))
    has_alpha = "A" in upright.getbands() or "transparency" in upright.info
    whole = upright.convert("RGBA" if has_alpha else "RGB")
    alpha = whole.getchannel("A") if has_alpha else None
    return Picture(np.asarray(whole.convert("RGB") if has_alpha else whole), alpha, _rgb_profile(picture))


def _rgb_profile(picture: Image.Image) -> bytes | None:
    profile: bytes = picture.info.get("icc_profile") or b""
    return profile if profile[16:20] == b"RGB " else None  # the field "data colour space" of ICC.1


def _upright(picture: Image.Image) -> Image.Image:
    """Rotated as its EXIF data say; damaged ones say nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # like the decoders, Pillow's parser lets anything through
        return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits as 8; Pillow itself does so for colours."""
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if (transparent := picture.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey
