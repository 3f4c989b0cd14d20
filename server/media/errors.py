"""What can go wrong with a media file, told in one line: what, why, what to do.

MediaError
├── UnreadableError       the input is missing, damaged or cut off
│   └── ContainerError    the input is nothing that we open: no container, a playlist, no regular file
├── UnsupportedError      the input is sound, but nothing we can upscale rightly
│   ├── HdrError          it is HDR
│   └── DimensionsError   the picture is too large or too small
├── EncoderError          the encoder is unknown, missing or refuses its settings
└── OutputError           the output cannot be written
    ├── PacketError       the output's container refuses what the input holds
    └── StorageError      the disk is full

Knows nothing of what the files are used for.
"""

from pathlib import Path
from typing import ClassVar

from models.errors import FourfoldError


class MediaError(FourfoldError):
    """Something is wrong with a media file.

    Attributes:
        code: the service's slug for this kind of error.
        problem: what is wrong and what to do, without the file's name: for those who do not know the file by that name.
    """

    code: ClassVar[str] = "unreadable"

    def __init__(self, problem: str, path: Path | None = None) -> None:
        super().__init__(problem if path is None else f"{path}: {problem}")
        self.problem = problem


class UnreadableError(MediaError):
    """The input is missing, damaged or cut off."""


class ContainerError(UnreadableError):
    """The input is nothing that we open: no container, a playlist, no regular file."""

    code = "container"


class UnsupportedError(MediaError):
    """The input is sound, but nothing that can be upscaled rightly: no video, a picture size that changes."""

    code = "unsupported"


class HdrError(UnsupportedError):
    """The input is HDR."""

    code = "hdr"


class DimensionsError(UnsupportedError):
    """The picture is too large or too small."""

    code = "dimensions"


class EncoderError(MediaError):
    """The encoder is unknown, cannot be used on this machine, or refuses a setting or the picture size."""

    code = "encoder"


class OutputError(MediaError):
    """The output cannot be written: no such folder, no permission, a container we do not write."""

    code = "internal"


class PacketError(OutputError):
    """The output's container refuses a packet of the input: that is damaged, or does not fit."""

    code = "unreadable"


class StorageError(OutputError):
    """The disk is full."""

    code = "storage"
