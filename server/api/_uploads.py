"""Streams an upload to disk: no more than a block of it is ever in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request

from server.api._multipart import file_pieces
from server.storage import finished, writing

BLOCK_BYTES = 1 << 20


async def receive(request: Request, target: Path, field: str, charge: Callable[[int], None]) -> None:
    """Writes the file that a request carries into the new file `target`; on any error that may stay behind, cut off.

    Args:
        request: see `file_pieces`.
        target: of the file.
        field: see `file_pieces`.
        charge: takes the size of the file before it grows to it; may refuse.

    Raises:
        ServiceError: storage: the disk is full; busy: too many files are open; or as `file_pieces` and `charge`.
        ClientDisconnect: the client left.
    """
    with writing():
        file = await finished(target.open, "xb", buffering=0)
    size, block = 0, bytearray()
    try:
        async for piece in file_pieces(request, field):
            size += len(piece)
            block += piece
            if len(block) >= BLOCK_BYTES:
                charge(size)
                await finished(_write, file, bytes(block))
                block.clear()
        charge(size)
        await finished(_write, file, bytes(block))
    finally:
        await finished(file.close)


def _write(file: BinaryIO, block: bytes) -> None:
    with writing():
        left = memoryview(block)
        while left:
            left = left[file.write(left) :]
