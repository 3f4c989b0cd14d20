"""H.264 as encoders write it (Annex B) and as FLV carries it: NAL units with their lengths before them, parameter sets apart.

ISO/IEC 14496-15, 5.3.3. Knows nothing of codecs' insides beyond the type of a NAL unit.
"""

from collections.abc import Iterator

from server.media.errors import EncoderError

_START = b"\x00\x00\x01"
_SPS, _PPS, _DELIMITER = 7, 8, 9


def nal_units(stream: bytes) -> Iterator[bytes]:
    """The NAL units of an Annex B byte stream."""
    for unit in stream.split(_START)[1:]:
        if stripped := unit.rstrip(b"\x00"):  # the zero before the next start code, and padding
            yield stripped


def access_unit(stream: bytes) -> bytes:
    """The pictures' NAL units of an Annex B access unit, each after its length in four bytes."""
    units = [unit for unit in nal_units(stream) if _type(unit) not in (_SPS, _PPS, _DELIMITER)]
    return b"".join(part for unit in units for part in (len(unit).to_bytes(4, "big"), unit))


def configuration(stream: bytes) -> bytes:
    """The AVCDecoderConfigurationRecord of the parameter sets in an Annex B byte stream.

    Raises:
        EncoderError: it has none.
    """
    units = list(nal_units(stream))
    sequence = [unit for unit in units if _type(unit) == _SPS]
    picture = [unit for unit in units if _type(unit) == _PPS]
    if not sequence or not picture:
        raise EncoderError("the encoder gave no parameter sets; take another encoder")
    profile = sequence[0][1:4]
    record = b"\x01" + profile + b"\xff" + bytes([0xE0 | len(sequence)]) + _counted(sequence)
    record += bytes([len(picture)]) + _counted(picture)
    if profile[0] in (100, 110, 122, 144):  # 4:2:0, eight bits each
        record += b"\xfd\xf8\xf8\x00"
    return record


def _type(unit: bytes) -> int:
    return unit[0] & 0x1F


def _counted(units: list[bytes]) -> bytes:
    return b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)
