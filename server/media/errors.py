"""What can go wrong with a media file, told in one line: what, why, what to do.

MediaError
├── UnreadableError    the input is missing, not media, damaged or cut off
├── UnsupportedError   the input is sound, but nothing we can upscale rightly
├── EncoderError       the encoder is unknown, missing or refuses its settings
└── OutputError        the output cannot be written

Knows nothing of what the files are used for.
"""

from models.errors import FourfoldError


class MediaError(FourfoldError):
    """Something is wrong with a media file."""


class UnreadableError(MediaError):
    """The input is missing, not a media file, damaged or cut off."""


class UnsupportedError(MediaError):
    """The input is sound, but nothing that can be upscaled rightly: HDR, no video, a picture size that changes."""


class EncoderError(MediaError):
    """The encoder is unknown, cannot be used on this machine, or refuses a setting or the picture size."""


class OutputError(MediaError):
    """The output cannot be written: no such folder, no permission, no space, a container we do not write."""
