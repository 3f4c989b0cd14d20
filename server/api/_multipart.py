"""Reads one file out of a request's body while it comes: the raw body, or one field of a multipart body."""

from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from server.errors import ServiceError

MAX_PARTS = 64
"""Of a multipart body; each costs the event loop some time."""


async def file_pieces(request: Request, field: str) -> AsyncIterator[bytes]:
    """The file that a request carries, piece by piece, as it comes.

    Args:
        request: with the file as its body, or with a multipart body that has it in `field`.
        field: its name.

    Raises:
        ServiceError: bad_multipart; invalid: the file's name; or what the body itself raises (see `server.api._limits`).
        ClientDisconnect: the client left.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        async for piece in request.stream():
            yield piece
        return
    if not options.get(b"boundary"):
        raise ServiceError("bad_multipart", "the Content-Type of a multipart body needs a boundary")
    form = _Form(options[b"boundary"], field)
    async for piece in request.stream():
        yield form.feed(piece)
    form.finish()


class _Form:
    """A multipart body with a file in one of its fields; other fields are passed over."""

    def __init__(self, boundary: bytes, field: str) -> None:
        self._field, self._data = field, list[bytes]()
        self._parts, self._files, self._complete = 0, 0, False
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

    def feed(self, piece: bytes) -> bytes:
        """What of a piece of the body belongs to the file."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise ServiceError("bad_multipart", "the multipart body is broken") from error
        data, self._data = b"".join(self._data), []
        return data

    def finish(self) -> None:
        if not self._complete:
            raise ServiceError("bad_multipart", "the multipart body ends before its last boundary")
        if self._files != 1:
            found = f"{self._files} fields `{self._field}`"
            raise ServiceError("bad_multipart", f"the multipart body has {found}; send the file in one")

    def _on_part_begin(self) -> None:
        self._parts += 1
        self._disposition = b""
        if self._parts > MAX_PARTS:
            raise ServiceError("bad_multipart", f"the multipart body has more than {MAX_PARTS} parts")

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
        self._wanted = options.get(b"name") == self._field.encode()
        self._files += self._wanted
        _check_name(options.get(b"filename", b""))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self._files == 1:
            self._data.append(data[start:end])

    def _on_end(self) -> None:
        self._complete = True


def _check_name(name: bytes) -> None:
    """Refuses a file name that is a path. Names of files are made here and it would not be used: but nor is it an accident."""
    if any(byte < 32 or byte == 127 or byte in b"/\\" for byte in name):
        raise ServiceError("invalid", "the file's name has a slash or a control character; give a plain name")
