"""What a worker does for video jobs: looks at an upload, or upscales it. Its other side is `server.jobs`.

Options: `task` (check or upscale), `source` and `target` (paths), `model`, `scale`, `encoder`, `crf`, `height`, `limits`.
Says {"frames", "total"} as it goes on, {"waiting"} while there is no engine, at the end {"done"} or {"error": {"code",
"message"}}.
"""

import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from engines.runner import BackendUnavailableError, DeviceMemoryError, EngineDeadError, EngineError, EngineSpec, InferenceError
from models.errors import FourfoldError
from server.catalogue import cores
from server.media.encode import EncoderSettings
from server.media.errors import EncoderError, MediaError, StorageError, UnsupportedError
from server.streams.wire import Channel
from server.video_engines import OpenedEngine, open_remote
from server.videos import VideoLimits, VideoOptions, check_video, upscale_video

PROGRESS_SECONDS = 0.2  # between two messages, at least
WAITING_SECONDS = 1.0  # between two signs of life while there is no engine
ENGINE_SECONDS = 600.0  # that an engine may stay away
RECONNECT_SECONDS = 0.25
ENCODER_THREADS = 8  # at most: each takes memory, some of them as much as three pictures
ENGINE_DEATHS = 5  # in the middle of one job, after which it is no more started again: it may be what kills them


def run(channel: Channel, engine_address: str, options: dict[str, Any]) -> None:
    """The worker's work; see the module."""
    try:
        channel.send_json({"done": _work(channel, engine_address, options)})
    except (FourfoldError, MemoryError) as error:
        code, message = _told(error, was_checked=options["task"] == "upscale")
        channel.send_json({"error": {"code": code, "message": message}})


def _work(channel: Channel, engine_address: str, options: dict[str, Any]) -> dict[str, Any]:
    paths = Path(options["source"]), Path(options["target"])
    settings = EncoderSettings(options["encoder"], options["crf"], threads=min(cores(), ENCODER_THREADS))
    chosen = VideoOptions(options["model"], options["scale"], height=options["height"], encoder=settings)
    limits = VideoLimits(**options["limits"])
    if options["task"] == "check":
        return check_video(*paths, chosen, limits)
    for _ in range(ENGINE_DEATHS):
        notes: list[str] = []
        engine = _Engines(channel, engine_address)
        try:
            figures = upscale_video(*paths, chosen, notes.append, _Progress(channel), engine.open, limits)
            return {"figures": figures, "notes": notes}
        except EngineDeadError:
            channel.send_json({"frames": 0, "total": None})
    raise BackendUnavailableError(f"the engine ended {ENGINE_DEATHS} times during this video")


class _Progress:
    """Tells how far a video is, now and then."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._due = channel, 0.0

    def __call__(self, frames: int, total: int | None) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + PROGRESS_SECONDS
            self._channel.send_json({"frames": frames, "total": total})


class _Engines:
    """Opens engines in the engine process, and waits for it while it is being started again."""

    def __init__(self, channel: Channel, address: str) -> None:
        self._channel, self._address = channel, address

    @contextmanager
    def open(self, spec: EngineSpec) -> Iterator[OpenedEngine]:
        """See `server.videos.OpenEngine`."""
        with ExitStack() as stack:
            with _alive(self._channel):
                opened = self._awaited(lambda: stack.enter_context(open_remote(self._address, spec)))
            yield opened

    def _awaited(self, enter: Callable[[], OpenedEngine]) -> OpenedEngine:
        deadline = time.monotonic() + ENGINE_SECONDS
        while True:
            try:
                return enter()
            except EngineDeadError as error:
                if time.monotonic() > deadline:
                    raise BackendUnavailableError(f"the engine did not come back within {ENGINE_SECONDS:g} s") from error
                time.sleep(RECONNECT_SECONDS)


@contextmanager
def _alive(channel: Channel) -> Iterator[None]:
    """Gives signs of life as long as the block lasts: compiling an engine takes its time."""
    over = threading.Event()

    def tell() -> None:
        with suppress(OSError):
            while not over.wait(WAITING_SECONDS):
                channel.send_json({"waiting": "engine"})

    thread = threading.Thread(target=tell, name="alive")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _told(error: FourfoldError | MemoryError, was_checked: bool) -> tuple[str, str]:
    """Code and message for the client, who knows none of our paths."""
    limit = f"{resource.getrlimit(resource.RLIMIT_DATA)[0] >> 20} MiB of memory"
    short_of_memory = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
    if short_of_memory and not isinstance(error, UnsupportedError):
        return "unsupported", f"it needs more than {limit}; take a smaller scale or height, or another encoder"
    if isinstance(error, EncoderError) and was_checked:  # it took size and settings; libraries do not say what they lack then
        return "encoder", f"{error.problem}, or a smaller scale or height: it has {limit}"
    if isinstance(error, StorageError):
        return "storage", "the disk of the service is full; try later, or tell its operator"
    if isinstance(error, MediaError) and error.code != "internal":
        return error.code, error.problem
    if isinstance(error, DeviceMemoryError):
        return "gpu_oom", "the engine has no memory left for frames of this size; try again later, or another model"
    if isinstance(error, InferenceError):
        return "bad_output", "the engine failed on a frame of this video; try another model"
    if isinstance(error, EngineError):
        return "engine_unavailable", str(error)
    return "internal", "the service failed on this video; tell its operator"
