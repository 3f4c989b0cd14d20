"""Upscale pictures, videos and live frames with a running Fourfold service.

    with Client() as client:
        client.upscale_image("small.png", scale=4).save("large.png")

`Client` waits for its answers, `AsyncClient` has the same methods as coroutines. What goes wrong is a `FourfoldError`.
"""

from fourfold_client.blocking import Client
from fourfold_client.client import AsyncClient
from fourfold_client.errors import (
    AuthenticationError,
    BusyError,
    ConflictError,
    ConnectionLostError,
    EngineError,
    FourfoldError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    ServiceError,
    TooLargeError,
)
from fourfold_client.events import (
    Dropped,
    Event,
    FrameFailed,
    InputFrame,
    ModelChanged,
    Ready,
    Reconnecting,
    Statistics,
    UpscaledFrame,
)
from fourfold_client.types import Engine, Engines, Model, Picture, Relay, Video, VideoProgress

__all__ = [
    "AsyncClient",
    "AuthenticationError",
    "BusyError",
    "Client",
    "ConflictError",
    "ConnectionLostError",
    "Dropped",
    "Engine",
    "EngineError",
    "Engines",
    "Event",
    "FourfoldError",
    "FrameFailed",
    "InputFrame",
    "InvalidInputError",
    "Model",
    "ModelChanged",
    "NotFoundError",
    "PermissionDeniedError",
    "Picture",
    "Ready",
    "Reconnecting",
    "Relay",
    "ServiceError",
    "Statistics",
    "TooLargeError",
    "UpscaledFrame",
    "Video",
    "VideoProgress",
]
