"""The words of /v1/stream: what is taken, what is refused and with which word."""

import json
from typing import Any

import pytest

from server.errors import ServiceError
from server.streams.protocol import END, HEADER_BYTES, Header, parse_header, parse_start

LEAST = {"type": "start", "input": {"format": "jpeg"}}
WHOLE = {
    "type": "start",
    "model": "auto",
    "scale": 4,
    "fps": 60,
    "input": {"format": "rgb24", "width": 480, "height": 270},
    "output": {"format": "png", "quality": 85},
    "late": "keep",
}


def refusal(words: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        parse_start(words if isinstance(words, str) else json.dumps(words))
    return caught.value


def test_what_is_not_said_has_a_default() -> None:
    start = parse_start(json.dumps(LEAST))
    assert (start.model, start.scale, start.fps, start.late) == (None, 4, 60, "drop")
    assert (start.output.format, start.output.quality) == ("jpeg", 85)


def test_everything_can_be_said() -> None:
    start = parse_start(json.dumps(WHOLE))
    assert (start.model, start.scale, start.fps, start.late) == ("auto", 4, 60, "keep")
    assert (start.input.format, start.input.width, start.input.height) == ("rgb24", 480, 270)
    assert (start.output.format, start.output.quality) == ("png", 85)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"scale": 5}, "invalid", "scale"),
        ({"scale": "4"}, "invalid", "scale"),
        ({"fps": 0}, "invalid", "fps"),
        ({"fps": 1e9}, "invalid", "fps"),
        ({"late": "never"}, "invalid", "late"),
        ({"fsp": 30}, "invalid", "fsp"),
        ({"type": "begin"}, "invalid", "type"),
        ({"model": "m" * 65}, "invalid", "model"),
        ({"input": {"format": "gif"}}, "unsupported_type", "gif"),
        ({"input": {"format": "rgb24"}}, "invalid", "width"),
        ({"input": {"format": "jpeg", "width": 8}}, "invalid", "height"),
        ({"input": {"format": "jpeg", "width": -8, "height": 8}}, "invalid", "width"),
        ({"input": None}, "invalid", "input"),
        ({"output": {"format": "webm"}}, "unsupported_type", "webm"),
        ({"output": {"quality": 101}}, "invalid", "quality"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], code: str, said: str) -> None:
    error = refusal(LEAST | change)
    assert error.code == code
    assert said in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize("words", ["", "no JSON", "[1, 2", '"start"', "[]", "1e999", "{}", "null"])
def test_what_is_no_start_message_is_said(words: str) -> None:
    assert refusal(words).code in ("bad_message", "invalid")


def test_formats_that_are_not_known_close_as_unsupported() -> None:
    assert refusal(LEAST | {"input": {"format": "gif"}}).close_code == 1003


def test_a_header_has_24_bytes_and_survives() -> None:
    header = Header(2**32 - 1, END, -(2**63), 2**32 - 1, 7)
    assert len(header.pack()) == HEADER_BYTES == 24
    assert parse_header(b"xx" + header.pack() + b"payload", 2) == header
    assert header.ends
    assert not Header(1).ends


def test_a_header_is_little_endian() -> None:
    assert Header(1, 2, 3, 4, 5).pack() == bytes.fromhex("01000000 02000000 0300000000000000 04000000 05000000")


@pytest.mark.parametrize("length", [0, 1, 23])
def test_a_message_without_a_whole_header_is_refused(length: int) -> None:
    with pytest.raises(ServiceError, match=f"{length} bytes"):
        parse_header(bytes(length))
