"""Subtitle packets from one container's text format to another's: SRT to mov_text (3GPP TS 26.245) and back.

Knows nothing of containers; styles within the text are lost.
"""

import re

_CONVERSIONS = {
    (srt, mov): "mov_text"
    for srt in ("srt", "subrip")  # FFmpeg has two decoders of one format
    for mov in ("mp4", "mov")
} | {("mov_text", "matroska"): "subrip"}
_TAGS = re.compile(rb"</?[a-zA-Z][^>]*>|\{\\[^}]*\}")

# The mov_text encoder derives its sample description from an ASS header.
ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def target_codec(codec: str, container: str) -> str | None:
    """The text codec of `container` (FFmpeg's name of the muxer) that `codec` can be rewritten as, or None."""
    return _CONVERSIONS.get((codec, container))


def rewrite(data: bytes, target: str) -> bytes:
    """One subtitle's bytes as `target` has them; b"" when nothing is shown."""
    if target == "mov_text":
        text = _TAGS.sub(b"", data).replace(b"\r\n", b"\n").strip()
        return len(text).to_bytes(2, "big") + text
    return data[2 : 2 + int.from_bytes(data[:2], "big")]  # what follows are style boxes
