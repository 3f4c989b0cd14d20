"""A worker for pictures: decodes one after the other, has it upscaled, encodes the result. The api's side is `picture_pool`.

api:    {...PictureTask}, then the file as one frame
worker: {"stage": "infer"} and {"stage": "encode"} as these begin,
        then {"result": {...PictureResult}} and the new file in frames,
        or {"error": code, "message": text, "retry_after": seconds or null}
"""

import json
import time
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

from server.errors import ServiceError
from server.pictures import PictureFormat, check_result, read_picture, write_picture
from server.streams.tile_engine import TileEngine
from server.streams.wire import Channel
from server.tiles import upscale

CHUNK_BYTES = 1 << 18
"""Of one frame of a result."""


@dataclass(frozen=True)
class PictureTask:
    """What to do with a picture."""

    graphs: str  # the network, as the engine knows it
    scale: int
    to: PictureFormat
    quality: int  # 1 to 100; of JPEG and WebP
    max_pixels: int  # of the input
    max_output_pixels: int


@dataclass(frozen=True)
class PictureResult:
    """What became of a picture."""

    bytes: int
    alpha_dropped: bool  # it had alpha, and the format that it was wanted in has none
    backend: str
    precision: str
    seconds: dict[str, float]  # by stage: decode, queue, infer, encode


def run(channel: Channel, engine_address: str, options: dict[str, Any]) -> None:
    """Serves tasks until the api hangs up.

    Args:
        channel: to the api.
        engine_address: of the engine process.
        options: none.
    """
    with TileEngine(engine_address) as engine:
        channel.send_json({"ready": True})
        while (task := channel.receive()) and (file := channel.receive()):
            try:
                _upscale(channel, PictureTask(**json.loads(bytes(task[1]))), file[1], engine)
            except ServiceError as error:
                _send_error(channel, error)
            except MemoryError:
                _send_error(channel, ServiceError("unsupported", "the picture takes more memory than one may; scale it down"))


def _upscale(channel: Channel, task: PictureTask, file: memoryview, engine: TileEngine) -> None:
    """From a file to its answer on the channel."""
    started = time.perf_counter()
    picture = read_picture(BytesIO(file), task.max_pixels)
    height, width, _ = picture.rgb.shape
    check_result(width, height, task.scale, task.to, task.max_output_pixels)
    decoded = _next_stage(channel, "infer")
    engine.infer_seconds = 0.0
    large = upscale(picture.rgb, task.scale, lambda tile: engine.upscale(task.graphs, tile))
    inferred = _next_stage(channel, "encode")
    result = write_picture(picture, large, task.to, task.quality).getbuffer()
    seconds = {
        "decode": decoded - started,
        "queue": inferred - decoded - engine.infer_seconds,
        "infer": engine.infer_seconds,
        "encode": time.perf_counter() - inferred,
    }
    dropped = picture.alpha is not None and task.to == "JPEG"
    about = PictureResult(len(result), dropped, engine.ready.backend, engine.ready.precision, seconds)
    channel.send_json({"result": asdict(about)})
    for start in range(0, len(result), CHUNK_BYTES):
        channel.send_frame(result[start : start + CHUNK_BYTES])


def _next_stage(channel: Channel, name: str) -> float:
    """Says that a stage begins, so that it is known where a picture got stuck; returns the time, in seconds."""
    channel.send_json({"stage": name})
    return time.perf_counter()


def _send_error(channel: Channel, error: ServiceError) -> None:
    channel.send_json({"error": error.code, "message": error.message, "retry_after": error.retry_after})
