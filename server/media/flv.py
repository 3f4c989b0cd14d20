"""FLV, the language of RTMP: tags from bytes and bytes from tags.

By hand and not by FFmpeg's demuxer and muxer: those probe streams before they give them, hold video back until sound has
come, and fix at the start which streams there are. Live, sound may come later, sizes change, and nothing may wait. Knows
nothing of servers.

The form: Adobe, Video File Format Specification 10.1, annex E.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from server.media.errors import UnreadableError, UnsupportedError

MAX_TAG_BYTES = 4 << 20
"""Of one tag that is read: no keyframe of a stream that is worth upscaling has as many."""

_FILE_HEADER = b"FLV\x01\x05\x00\x00\x00\x09" + bytes(4)  # sound and pictures may come
_TAG_HEADER_BYTES, _TRAILER_BYTES = 11, 4
_AVC, _AAC, _MP3 = 7, 10, 2
_KEYFRAME, _INTER, _COMMAND = 1, 2, 5
_ENHANCED = 0x80  # the first bit of a picture's tag: the codec is named by four letters

_VIDEO_CODECS = {2: "Sorenson H.263", 3: "Screen Video", 4: "VP6", 5: "VP6 with alpha", 6: "Screen Video 2", 12: "HEVC"}
_AUDIO_CODECS = {
    0: "PCM",
    1: "ADPCM",
    3: "PCM",
    4: "Nellymoser",
    5: "Nellymoser",
    6: "Nellymoser",
    7: "G.711",
    8: "G.711",
    11: "Speex",
}


class TagKind(IntEnum):
    """What a tag carries."""

    AUDIO = 8
    VIDEO = 9
    SCRIPT = 18


@dataclass(frozen=True)
class Tag:
    """One message of a stream."""

    kind: TagKind
    timestamp: int  # milliseconds, 32 bits that wrap
    payload: bytes


@dataclass(frozen=True)
class VideoPayload:
    """What is in the tag of a picture."""

    keyframe: bool
    configures: bool  # the data is an AVCDecoderConfigurationRecord, not an access unit
    delay_ms: int  # until the picture is shown, after it is decoded: 0 where there are no B-frames
    data: bytes  # NAL units with their lengths before them; none: the end of a sequence


@dataclass(frozen=True)
class AudioPayload:
    """What is in the tag of some sound."""

    codec: str  # aac or mp3
    configures: bool  # the decoder's configuration, not sound


class Reader:
    """Cuts a stream of bytes into tags."""

    def __init__(self) -> None:
        self._left, self._started = bytearray(), False

    def feed(self, data: bytes) -> Iterator[Tag]:
        """The tags that are complete with `data`; those of other kinds are passed over.

        Raises:
            UnreadableError: this is not FLV.
        """
        self._left += data
        if not self._started:
            if len(self._left) < len(_FILE_HEADER):
                return
            if self._left[:3] != b"FLV":
                raise UnreadableError("the server sends no FLV stream")
            del self._left[: len(_FILE_HEADER)]
            self._started = True
        while (tag := self._cut()) is not None:
            if tag[0] in set(TagKind) and tag[2]:  # servers send empty ones, too
                yield Tag(TagKind(tag[0]), tag[1], tag[2])

    def _cut(self) -> tuple[int, int, bytes] | None:
        left = self._left
        if len(left) < _TAG_HEADER_BYTES:
            return None
        size = int.from_bytes(left[1:4], "big")
        if size > MAX_TAG_BYTES:
            raise UnreadableError(f"a message of the stream has {size} bytes; {MAX_TAG_BYTES} are the most")
        if len(left) < _TAG_HEADER_BYTES + size + _TRAILER_BYTES:
            return None
        timestamp = int.from_bytes(left[4:7], "big") | left[7] << 24
        payload = bytes(left[_TAG_HEADER_BYTES : _TAG_HEADER_BYTES + size])
        kind = left[0] & 0x1F
        del left[: _TAG_HEADER_BYTES + size + _TRAILER_BYTES]
        return kind, timestamp, payload


def parse_video(payload: bytes) -> VideoPayload:
    """Of a tag that is not empty. Raises: UnsupportedError: another codec than H.264; UnreadableError: it is cut off."""
    if payload[0] >> 4 == _COMMAND:  # to players that seek
        return VideoPayload(False, False, 0, b"")
    if payload[0] & _ENHANCED:
        raise UnsupportedError(f"the stream's codec is {payload[1:5].decode('ascii', 'replace')}; publish H.264")
    if (codec := payload[0] & 0x0F) != _AVC:
        raise UnsupportedError(f"the stream's codec is {_VIDEO_CODECS.get(codec, f'number {codec}')}; publish H.264")
    if len(payload) < 5:
        raise UnreadableError("a picture's message is cut off")
    delay = int.from_bytes(payload[2:5], "big", signed=True)
    ends = payload[1] == 2
    return VideoPayload(payload[0] >> 4 == _KEYFRAME, payload[1] == 0, delay, b"" if ends else payload[5:])


def parse_audio(payload: bytes) -> AudioPayload:
    """Of a tag that is not empty. Raises: UnsupportedError: neither AAC nor MP3."""
    codec = payload[0] >> 4
    if codec == _AAC:
        return AudioPayload("aac", payload[1:2] == b"\0")
    if codec == _MP3:
        return AudioPayload("mp3", False)
    name = _AUDIO_CODECS.get(codec, f"number {codec}")
    raise UnsupportedError(f"the sound's codec is {name}; publish AAC or MP3, or no sound")


def file_header() -> bytes:
    """What a stream starts with."""
    return _FILE_HEADER


def tag(kind: TagKind, timestamp: int, payload: bytes) -> bytes:
    """The bytes of a tag, at a time in milliseconds that may be beyond 32 bits."""
    size, time = len(payload).to_bytes(3, "big"), timestamp & 0xFFFFFFFF
    head = bytes([kind]) + size + (time & 0xFFFFFF).to_bytes(3, "big") + bytes([time >> 24]) + bytes(3)
    return head + payload + (len(head) + len(payload)).to_bytes(4, "big")


def picture(timestamp: int, keyframe: bool, access_unit: bytes) -> bytes:
    """The tag of an access unit (NAL units with lengths of four bytes) that is shown when it is decoded."""
    return tag(TagKind.VIDEO, timestamp, bytes([(_KEYFRAME if keyframe else _INTER) << 4 | _AVC, 1, 0, 0, 0]) + access_unit)


def picture_configuration(timestamp: int, record: bytes) -> bytes:
    """The tag of an AVCDecoderConfigurationRecord: the pictures that follow are decoded by it."""
    return tag(TagKind.VIDEO, timestamp, bytes([_KEYFRAME << 4 | _AVC, 0, 0, 0, 0]) + record)


def metadata(width: int, height: int, fps: float, sound: bool) -> bytes:
    """The tag that names a stream's size and rate; servers show it, and players look for what it names."""
    numbers = {"width": width, "height": height, "framerate": fps, "videocodecid": _AVC}
    if sound:
        numbers["audiocodecid"] = _AAC
    pairs = b"".join(_amf_key(name) + _amf_number(value) for name, value in numbers.items())
    array = b"\x08" + len(numbers).to_bytes(4, "big") + pairs + b"\x00\x00\x09"
    return tag(TagKind.SCRIPT, 0, b"\x02" + _amf_key("onMetaData") + array)


def _amf_key(name: str) -> bytes:
    return len(name).to_bytes(2, "big") + name.encode()


def _amf_number(value: float) -> bytes:
    return b"\x00" + struct.pack(">d", value)
