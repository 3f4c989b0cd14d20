"""One relay for a command: the worker's work on a thread of this process, with an engine process of its own."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engines.client import EngineProcess
from engines.host import HostOptions
from models.errors import FourfoldError
from models.registry import UnknownModelError, find_model
from server.catalogue import cores, find_graphs
from server.media.live_encoder import choose_live
from server.metrics import Metrics
from server.relay import Relay, error_of
from server.relay_store import Plan, RelayRecord
from server.streams import relay
from server.streams._ladder import LIGHTER
from server.streams.relay_protocol import Endpoint, RelayOptions
from server.streams.wire import Channel

SCHEMES = ("rtmp", "rtmps")
STATS_SECONDS = 1.0

PIXELS, OUTPUT_PIXELS = 3840 * 2160, 8192 * 8192
"""Of a picture, at most: who runs a command has nobody to protect but from mistakes."""


@dataclass(frozen=True)
class LocalRelay:
    """What a command asks for; see `relay_protocol.RelayOptions`."""

    source: str
    target: str
    model: str
    scale: int
    engine: str
    precision: str
    encoder: str
    bitrate: int | None
    keyframe_seconds: float
    hold_seconds: float
    realtime: bool


def run_relay(
    wanted: LocalRelay, say: Callable[[str], None], on_stats: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any], bool]:
    """Relays until the source is over, or SIGINT or SIGTERM comes.

    Args:
        wanted: see there.
        say: takes a line about whatever happens.
        on_stats: called once a second with figures.

    Returns:
        The figures, and whether a signal ended it.

    Raises:
        FourfoldError: it cannot start, or could not go on.
    """
    options = _options(wanted)
    graphs = [find_graphs(name, wanted.scale, "yuv420")[1] for name in _models(options.model, wanted.scale)]
    host = HostOptions(cores(), wanted.engine, wanted.precision)
    with (
        EngineProcess({f"{each.title}-yuv420": each for each in graphs}, host) as engine,
        _started(engine.address, options) as channel,
        _signals(channel) as signalled,
    ):
        return _followed(channel, options, say, on_stats), bool(signalled)


def _options(wanted: LocalRelay) -> RelayOptions:
    """Raises: FourfoldError: something that was asked for makes no sense, or does not work here."""
    choose_live(wanted.encoder)
    return RelayOptions(
        source=_source(wanted.source, wanted.realtime),
        target=_target(wanted.target),
        model=find_model(wanted.model, wanted.scale).name,
        scale=wanted.scale,  # type: ignore[arg-type]  # the model has it, so it is one of them
        encoder=wanted.encoder,
        bitrate=wanted.bitrate,
        keyframe_seconds=wanted.keyframe_seconds,
        pixels=PIXELS,
        output_pixels=OUTPUT_PIXELS,
        hold_seconds=wanted.hold_seconds,
    )


def _source(source: str, realtime: bool) -> Endpoint:
    if urlsplit(source).scheme in SCHEMES:
        return Endpoint(url=source)
    path = Path(source.removeprefix("file://")).absolute()
    if not path.is_file():
        raise FourfoldError(f"{source} is neither an rtmp: or rtmps: URL nor a file")
    if not realtime:
        raise FourfoldError(
            f"{source} is a file: give --realtime to relay it at the speed it plays at, or use `fourfold video`"
        )
    return Endpoint(url=path.as_uri())


def _target(target: str) -> Endpoint:
    if urlsplit(target).scheme not in SCHEMES:
        raise FourfoldError(f"{target} is no rtmp: or rtmps: URL; `fourfold video` writes files")
    return Endpoint(url=target)


def _models(model: str, scale: int) -> list[str]:
    """The model, and the lighter one that it may be replaced by."""
    names = [model]
    with suppress(KeyError, UnknownModelError):
        names.append(find_model(LIGHTER[model], scale).name)
    return names


@contextmanager
def _started(address: str, options: RelayOptions) -> Iterator[Channel]:
    ours, theirs = socket.socketpair()
    channel, work = Channel(ours), (Channel(theirs), address, options.model_dump())
    thread = threading.Thread(target=_work, args=work, name="relay")
    thread.start()
    try:
        yield channel
    finally:
        channel.shut()
        thread.join()
        channel.close()


def _work(channel: Channel, address: str, options: dict[str, Any]) -> None:
    try:
        relay.run(channel, address, options)
    finally:
        channel.close()


@contextmanager
def _signals(channel: Channel) -> Iterator[list[int]]:
    """The signals that came; each has the relay end."""
    came: list[int] = []

    def stop(number: int, _frame: object) -> None:
        came.append(number)
        with suppress(OSError):  # it has ended already
            channel.send_json({"type": "stop"})

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _followed(
    channel: Channel, options: RelayOptions, say: Callable[[str], None], on_stats: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """The figures, once the relay is over.

    Raises:
        FourfoldError: it could not go on.
    """
    plan = Plan(
        str(options.source),
        str(options.target),
        **options.model_dump(include={"model", "scale", "encoder", "bitrate", "keyframe_seconds", "pixels"}),
    )
    followed = Relay(RelayRecord("", "", None, plan, time.time()), Metrics(), "relay", options.budget_seconds)
    due = time.monotonic() + STATS_SECONDS
    while (received := channel.receive()) is not None:
        words = json.loads(bytes(received[1]))
        if words["type"] == "error":
            raise error_of(words)
        if words["type"] == "ended":
            followed.end(words["reason"], None)
            return {"source": plan.source, "target": plan.target, **followed.figures()}
        followed.heed(words)
        if line := _line(words):
            say(line)
        if time.monotonic() >= due:
            due += STATS_SECONDS
            followed.tick()
            on_stats(followed.figures())
    raise FourfoldError("the relay ended unexpectedly; the lines above say where")


def _line(words: dict[str, Any]) -> str | None:
    """What a message tells people, if it does."""
    match words["type"]:
        case "source":
            return f"source: {words['width']}x{words['height']} at {words['fps']:g} frames/s"
        case "output":
            return f"output: {words['width']}x{words['height']}, {words['encoder']}, {words['engine']} {words['precision']}"
        case "state":
            return f"{words['state']}{': ' + words['reason'] if words['reason'] else ''}"
        case "model":
            return f"upscaled by {words['model']} from now on: {words['reason']}"
        case "reconnect":
            return f"the {words['side']} is connected again: {words['reason']}"
    return None
