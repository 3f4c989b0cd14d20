"""Arrays as PNG files: just enough to send one. Knows nothing of NumPy; whatever has a buffer of bytes will do."""

import struct
import zlib
from typing import Any

_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
"""Of PNG, by the number of channels: grey, RGB, RGB with alpha."""


def png_of(array: Any) -> bytes:
    """A picture as a PNG file.

    Args:
        array: uint8 [height, width], or [height, width, channels] with 1, 3 (RGB) or 4 (RGBA) channels.

    Raises:
        TypeError: it is something else.
    """
    view = memoryview(array)
    shape = view.shape or ()
    channels = shape[2] if len(shape) == 3 else 1
    if view.format != "B" or len(shape) not in (2, 3) or channels not in _COLOUR_TYPES or 0 in shape:
        sides = ", ".join(map(str, shape))
        raise TypeError(f"a picture is uint8 [height, width] or [height, width, 1, 3 or 4]; this is {view.format} [{sides}]")
    height, width, data = shape[0], shape[1], view.tobytes()
    stride = width * channels
    lines = b"".join(b"\0" + data[start : start + stride] for start in range(0, height * stride, stride))
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
