"""What an overload does to each panel: which have to move, which must not, and which are not judged, and why."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.observe.panels import Look

Move = Literal["RISES", "FALLS", "STAYS"]


@dataclass(frozen=True)
class Verdict:
    """One rule for one line of a panel."""

    move: Move | None  # None: not judged
    why: str
    letter: str = "A"
    where: Mapping[str, str] = field(default_factory=dict)  # labels of the samples that count
    of: Callable[[Iterable[float]], float] = max
    least: float = 0.0  # that it has to move by; or, of one that stays, may

    def value(self, seen: Look, page: str, panel: str) -> float | None:
        """What is judged; None: nothing is shown."""
        values = [
            sample.value
            for line, samples in seen.items()
            for sample in samples
            if (line.page, line.panel, line.letter) == (page, panel, self.letter)
            and self.where.items() <= sample.labels.items()
        ]
        return self.of(values) if values else None

    def moved(self, before: list[float], now: float) -> bool:
        """Whether it has risen above the calmest of the looks before, or fallen below it."""
        if self.move == "RISES":
            return now > max(1.5 * min(before), min(before) + self.least)
        return now < max(before) - self.least

    def left(self, before: list[float], now: float) -> bool:
        """Whether one that should stay has not."""
        return not min(before) - self.least <= now <= max(before) + self.least


def rises(why: str, **more: object) -> Verdict:
    return Verdict("RISES", why, **more)  # type: ignore[arg-type]


def falls(why: str, **more: object) -> Verdict:
    return Verdict("FALLS", why, **more)  # type: ignore[arg-type]


def stays(why: str, **more: object) -> Verdict:
    return Verdict("STAYS", why, **more)  # type: ignore[arg-type]


def unjudged(why: str) -> Verdict:
    return Verdict(None, why)


CARD_PANELS = ("Card: utilisation", "Card: memory", "Card: encoder sessions")
"""Empty where there is no NVIDIA card."""

WEBSOCKET, RELAY = {"kind": "websocket"}, {"kind": "relay"}
NOISE = "other work on the same machine moves it too"
MIXED = "half of the frames may be those of streams that are interpolated by now, and light"
INFER, QUEUE = (
    rises("each heavy frame takes long", where={"stage": "infer"}, least=0.01),
    rises("frames wait behind heavy ones", where={"stage": "queue"}, least=0.01),
)

VERDICTS: dict[tuple[str, str], tuple[Verdict, ...]] = {
    ("live", "Frames in time"): (falls("frames are late and dropped", least=0.05),),
    ("live", "Slowest stream, of its source"): (falls("the stream that drops does", of=min, least=0.1),),
    ("live", "Slowest stream"): (unjudged("the streams have different rates on purpose"),),
    ("live", "Latency, p99"): (rises("heavy frames wait for each other", least=0.05),),
    ("live", "Open streams"): (rises("there are three more", where=WEBSOCKET),),
    ("live", "Streams on bicubic"): (rises("streams step down", least=0.01),),
    ("live", "Frames in and out"): (rises("the new streams have a higher rate"),),
    ("live", "Frames by what became of them"): (rises("frames are dropped", where=WEBSOCKET | {"outcome": "dropped"}),),
    ("live", "Latency by stage, p50"): (unjudged(MIXED),),
    ("live", "Latency by stage, p95"): (INFER, QUEUE),
    ("live", "Latency by stage, p99"): (INFER, QUEUE),
    ("live", "Latency of live frames"): (
        rises("heavy frames wait for each other", letter="B", least=0.02),
        rises("heavy frames wait for each other", letter="C", least=0.05),
    ),
    ("live", "Latency by kind, p95"): (rises("the heavy streams are WebSockets", where=WEBSOCKET, least=0.02),),
    ("live", "Latency by stream, p95"): (rises("that of the heavy streams", least=0.05),),
    ("live", "Deadline misses"): (rises("streams that keep every frame are late", where=WEBSOCKET, least=0.05),),
    ("live", "Drops by reason"): (rises("more comes than the engine computes", where=WEBSOCKET, of=sum, least=0.5),),
    ("live", "Streams by model"): (rises("streams step down", where={"model": "bicubic"}),),
    ("live", "Changes of model"): (rises("streams step down: it is too slow, or hangs", of=sum),),
    ("live", "Reconnects"): (unjudged("an RTMP server that shares two busy cores may cut a connection"),),
    ("engine", "Ready"): (stays("the engine is busy, not dead"),),
    ("engine", "What runs"): (stays("nothing else does"),),
    ("engine", "Restarts, last hour"): (stays("nothing dies"),),
    ("engine", "Frames inferred"): (unjudged("fewer heavy ones, or more frames in all"),),
    ("engine", "Frames waiting"): (rises("they do", least=1),),
    ("engine", "Batch size"): (unjudged("on a processor always one"),),
    ("engine", "Queue"): (rises("frames wait for the engine", where={"queue": "engine"}, least=1),),
    ("engine", "Frames inferred, by backend"): (unjudged("fewer heavy ones, or more frames in all"),),
    ("engine", "Inference time"): (rises("each heavy frame takes long", letter="B", least=0.01),),
    ("engine", "Waiting time"): (rises("frames wait behind heavy ones", letter="B", least=0.01),),
    ("engine", "Utilisation"): (rises("the engine computes all the time", least=0.1),),
    ("engine", "Restarts"): (stays("nothing dies"),),
    ("engine", "Memory of the api process"): (unjudged(NOISE),),
    **{("engine", panel): (unjudged("the overload is the processor's"),) for panel in CARD_PANELS},
    ("service", "Up"): (stays("it answers"),),
    ("service", "Version"): (stays("it is the same"),),
    ("service", "Faults"): (stays("late frames are no failed requests", least=0.01),),
    ("service", "Restarts, last hour"): (stays("nothing dies"),),
    ("service", "Disk that is free"): (unjudged(NOISE),),
    ("service", "Places taken"): (rises("there are three more streams"),),
    ("service", "Requests by route"): (unjudged("clients that wait for answers ask less often"),),
    ("service", "Requests by status"): (unjudged("clients that wait for answers ask less often"),),
    ("service", "Time of requests, p95"): (unjudged(NOISE),),
    ("service", "Errors by code"): (unjudged("clients that wait for answers ask less often"),),
    ("service", "Refused for want of room"): (stays("there is room for these streams", of=sum, least=0.01),),
    ("service", "Streams and jobs that failed"): (stays("late is not failed", of=sum, least=0.01),),
    ("service", "Jobs"): (unjudged("they come and go"),),
    ("service", "Frames of videos"): (unjudged("they come and go"),),
    ("service", "Room for uploads and results"): (unjudged("jobs come and go"),),
    ("service", "Streams and their places"): (rises("there are three more", where=WEBSOCKET), stays("places do", letter="B")),
    ("service", "Restarts"): (stays("the service does not"), stays("the engine does not", letter="B")),
    ("service", "Processor time of the api process"): (unjudged(NOISE),),
    ("alerts", "FourfoldDown"): (stays("it answers"),),
    ("alerts", "FourfoldCrashLoop"): (stays("nothing dies"),),
    ("alerts", "FourfoldNoEngine"): (stays("the engine is busy, not dead"),),
    ("alerts", "FourfoldEngineCrashLoop"): (stays("nothing dies"),),
    ("alerts", "FourfoldDeadlineMisses"): (rises("it is about this"),),
    ("alerts", "FourfoldBelowSource"): (unjudged("the stream that drops may be interpolated soon, at its full rate"),),
    ("alerts", "FourfoldLatency"): (rises("it is about this"),),
    ("alerts", "FourfoldDrops"): (unjudged("the stream that drops may be interpolated soon, at its full rate"),),
    ("alerts", "FourfoldOverload"): (unjudged("four steps down are needed, and there are fewer streams"),),
    ("alerts", "FourfoldReconnects"): (unjudged("an RTMP server that shares two busy cores may cut a connection"),),
    ("alerts", "FourfoldFaults"): (stays("late is not failed"),),
    ("alerts", "FourfoldCapacity"): (stays("there are places left"),),
    ("alerts", "FourfoldRefusals"): (stays("nothing is refused"),),
    ("alerts", "FourfoldDisk"): (unjudged(NOISE),),
}
