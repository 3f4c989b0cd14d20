"""What FFmpeg says to stderr of the streams that it is given."""

import av


def hush() -> None:
    """Keeps FFmpeg from writing to stderr what it thinks of every frame that a stranger sends."""
    av.logging.set_libav_level(av.logging.PANIC)
