"""Streams an upload to disk: the raw body, or one field of a multipart body. No more than a block of it is ever in memory.

How large and how slow a body may be is seen to before it comes here (`server.api._limits`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from server.errors import ServiceError
from server.storage import finished, writing

BLOCK_BYTES = 1 << 20


class _Body(Protocol):
    """Takes a body block by block."""

    def feed(self, block: bytes) -> None: ...

    def finish(self) -> None: ...


async def receive(request: Request, target: Path, field: str, charge: Callable[[int], None]) -> None:
    """Writes what a request carries into the new file `target`; on any error it may stay behind, cut off.

    Args:
        request: with a raw body, or a multipart one that has the file in `field`.
        target: of the file.
        field: its name.
        charge: takes the size of the file before it grows to it; may refuse.

    Raises:
        ServiceError: bad_multipart; invalid: the file's name; storage; or what the body itself raises.
        ClientDisconnect: the client left.
    """
    with writing():
        file = await finished(target.open, "xb")
    try:
        await _stream(request, _body(request, _File(file, charge), field))
    finally:
        with writing():
            await finished(file.close)


async def _stream(request: Request, body: _Body) -> None:
    block = bytearray()
    async for piece in request.stream():
        block += piece
        if len(block) >= BLOCK_BYTES:
            await finished(body.feed, bytes(block))
            block.clear()
    await finished(body.feed, bytes(block))
    body.finish()


def _body(request: Request, file: "_File", field: str) -> _Body:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        return file
    if not options.get(b"boundary"):
        raise ServiceError("bad_multipart", "the Content-Type of a multipart body needs a boundary")
    return _Multipart(options[b"boundary"], field.encode(), file)


class _File:
    """A raw body, or the part of another one that counts."""

    def __init__(self, file: BinaryIO, charge: Callable[[int], None]) -> None:
        self._file, self._charge, self._size = file, charge, 0

    def feed(self, block: bytes) -> None:
        self._size += len(block)
        self._charge(self._size)
        with writing():
            self._file.write(block)

    def finish(self) -> None:
        """A raw body ends anywhere."""


class _Multipart:
    """A multipart body with the file in one of its fields; other fields are passed over."""

    def __init__(self, boundary: bytes, field: bytes, file: _File) -> None:
        self._field, self._file = field, file
        self._files, self._complete = 0, False
        self._header, self._value, self._disposition = b"", b"", b""
        self._wanted = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_end": self._on_end,
            },
        )

    def feed(self, block: bytes) -> None:
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise ServiceError("bad_multipart", "the multipart body is broken") from error

    def finish(self) -> None:
        name = self._field.decode()
        if not self._complete:
            raise ServiceError("bad_multipart", "the multipart body ends before its last boundary")
        if self._files != 1:
            raise ServiceError("bad_multipart", f"the multipart body has {self._files} fields `{name}`; send one, the file")

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._wanted = options.get(b"name") == self._field
        if self._wanted:
            self._files += 1
            _check_name(options.get(b"filename", b""))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self._files == 1:
            self._file.feed(data[start:end])

    def _on_end(self) -> None:
        self._complete = True


def _check_name(name: bytes) -> None:
    """Refuses a file name that is a path. Names of files are made here and it would not be used: but nor is it an accident."""
    if any(byte < 32 or byte == 127 or byte in b"/\\" for byte in name):
        raise ServiceError("invalid", "the file's name has a slash or a control character; give a plain name")
