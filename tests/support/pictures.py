"""Picture files for tests: good ones of every kind, and such as a stranger might send."""

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

BOMB = (12000, 12000)  # pixels


def ramp(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3] in which no two corners are alike."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.dstack([rows * 3 % 256, columns * 5 % 256, (rows + columns) * 2 % 256]).astype(np.uint8)


def encoded(picture: Any, format: str, **options: Any) -> bytes:  # noqa: A002
    """An array or a Pillow picture as a file."""
    target = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(target, format, **options)
    return target.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: tuple[int, ...], lines: bytes) -> bytes:
    """A PNG file. Args: header: width, height, depth, colour type; lines: each with its filter byte."""
    ihdr = struct.pack(">IIBBBBB", *header, 0, 0, 0)
    chunks = (b"IHDR", ihdr), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@cache
def hostile_pictures() -> dict[str, tuple[bytes, str]]:
    """Files that are to be refused, by name, each with the code of the refusal. The limit is taken to be 2^20 pixels."""
    whole = {name: encoded(ramp(40, 30), name) for name in ("PNG", "JPEG", "WEBP")}
    found = {
        "nothing": (b"", "unreadable"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", "unsupported_type"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "unsupported_type"),
        "gif": (encoded(ramp(40, 30), "GIF"), "unsupported_type"),
        "tiff": (encoded(ramp(40, 30), "TIFF"), "unsupported_type"),
        "wav": (b"RIFF\x24\0\0\0WAVEfmt ", "unsupported_type"),
        "text": (b"no picture", "unsupported_type"),
        "PNG bomb": (png((*BOMB, 8, 2), bytes(1000)), "dimensions"),
        "JPEG bomb": (_jpeg_of(BOMB), "dimensions"),
        "WEBP bomb, VP8X": (
            _webp(b"VP8X", bytes(4) + b"".join((side - 1).to_bytes(3, "little") for side in BOMB)),
            "dimensions",
        ),
        "WEBP bomb, VP8L": (_webp(b"VP8L", b"\x2f" + (BOMB[0] - 1 | BOMB[1] - 1 << 14).to_bytes(4, "little")), "dimensions"),
        "WEBP bomb, VP8": (_webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", *BOMB)), "dimensions"),
        "PNG without pixels": (png((30, 40, 8, 2), b""), "unreadable"),
    }
    for name, file in whole.items():
        found |= {f"{name} cut at {size}": (file[:size], "unreadable") for size in (3, 20, len(file) // 2, len(file) - 40)}
    return found


def _jpeg_of(size: tuple[int, int]) -> bytes:
    """A JPEG file that says it has another size than it has."""
    file = encoded(ramp(40, 30), "JPEG")
    frame = file.index(b"\xff\xc0")
    return file[: frame + 5] + struct.pack(">HH", size[1], size[0]) + file[frame + 9 :]


def _webp(kind: bytes, data: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
