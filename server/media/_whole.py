"""Is all of a file there? Answers from the container's own book-keeping, before hours are spent on half a film.

Knows nothing of pictures: it looks only at sizes.
"""

from pathlib import Path
from typing import BinaryIO

from av.container import InputContainer

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = frozenset(b"ftyp styp moov mdat moof mfra sidx free skip wide uuid meta udta".split())


def bytes_missing(container: InputContainer, path: Path) -> int:
    """How many bytes the container speaks of beyond the end of the file; 0 where it says nothing."""
    name = container.format.name
    if name.startswith("matroska"):
        end = _matroska_end(path)
    elif name.startswith("mov"):
        end = _mov_end(path)
    else:
        end = 0
    return max(0, end - path.stat().st_size)


def _mov_end(path: Path) -> int:
    """Where the last top-level box ends, bytes from the start (ISO/IEC 14496-12, 4.2)."""
    position, end = 0, path.stat().st_size
    with path.open("rb") as file:
        while position < end:
            file.seek(position)
            header = file.read(16)
            size, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if kind not in _BOXES or size == 0:  # what cameras append for themselves; or "up to the end"
                return position
            position += int.from_bytes(header[8:16], "big") if size == 1 else size
            if size < 8 and size != 1:
                return 0
    return position


def _matroska_end(path: Path) -> int:
    """Where the Segment ends, bytes from the start; 0 when the writer left its size open (RFC 8794, 6.2)."""
    with path.open("rb") as file:
        if file.read(4) != _EBML:
            return 0
        file.seek(_vint(file) or 0, 1)
        if file.read(4) != _SEGMENT:
            return 0
        size = _vint(file)
        return 0 if size is None else file.tell() + size


def _vint(file: BinaryIO) -> int | None:
    """An EBML variable-size integer (RFC 8794, 4); None for the reserved value 'unknown'."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value
