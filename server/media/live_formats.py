"""The names of what live clients send and get. Apart from the codecs, so that the api process need not load them."""

from typing import Literal

Format = Literal["jpeg", "png", "rgb24", "yuv420p", "h264"]
