"""One live relay as the api process sees it: what its workers said, in figures. Knows nothing of processes or HTTP."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, get_args

from engines.logs import redacted
from models.registry import MODELS
from server.errors import CODES, ServiceError
from server.meter import Meter
from server.metrics import STEPS_DOWN, STEPS_UP, Metrics
from server.relay_store import RelayRecord
from server.streams.relay_protocol import RelayDrop, RelayState, SourceReason

log = logging.getLogger(__name__)

MODEL_NAMES = tuple({model.name for model in MODELS})

REASON_CHARACTERS = 200


class Relay:
    """A relay that goes on."""

    def __init__(
        self,
        record: RelayRecord,
        metrics: Metrics,
        label: str,
        budget_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        record: what it is to do.
        metrics: where everything is counted.
        label: what metrics and log call it.
        budget_seconds: see `Meter`.
        clock: seconds.
        """
        self.record, self.label, self._metrics, self._clock = record, label, metrics, clock
        self.task: asyncio.Task[None] | None = None
        self.stopping = asyncio.Event()
        self.listens = asyncio.Event()  # to its source, at the service's own RTMP server
        self.state: RelayState = "starting"
        self.since = self._began = clock()  # in this state; at all
        self.has_source = False
        self._meter = Meter(metrics, "relay", label, record.plan.model, budget_seconds, clock)
        self._stats = self._meter.stats()
        self._reconnects = self._held = self._under_way = 0
        self._reason: str | None = None
        self._error: dict[str, str] | None = None
        self._input: dict[str, Any] | None = None
        self._output: dict[str, Any] | None = None
        self._made: dict[str, str | None] = {"encoder": record.plan.encoder, "engine": None, "precision": None}
        self._publisher: str | None = None
        self._admitted: float | None = None  # when; None: it has begun since

    @property
    def age(self) -> float:
        """Seconds since it was begun by this process."""
        return self._clock() - self._began

    def stop(self, reason: str) -> None:
        """Has the relay end."""
        self._reason = self._reason or reason
        self.stopping.set()

    def admit(self, publisher: str) -> None:
        """Somebody was let in to publish its source. Args: publisher: who, as the RTMP server tells its clients apart."""
        self._publisher, self._admitted = publisher, self._clock()

    def gone(self, publisher: str) -> None:
        """Somebody stopped publishing; nothing happens unless it is who was let in last."""
        if self._publisher == publisher:
            self._publisher = None

    def is_published(self, patience: float) -> bool:
        """Whether somebody publishes its source. Args: patience: seconds that who was let in has to begin."""
        return self._publisher is not None and (self.has_source or self.is_awaited(patience))

    def waits(self, seconds: float) -> bool:
        """Whether it has waited for its source in vain for so long, from its start."""
        return self.state == "starting" and not self.has_source and self._clock() - self.since > seconds

    def heed(self, message: dict[str, Any]) -> None:
        """Takes what a worker said. Raises: KeyError, TypeError or ValueError: it is none of its messages."""
        match message["type"]:
            case "state":
                self._go(_known(message["state"], get_args(RelayState)), message.get("reason"))
            case "incoming":
                self._begun()
            case "source":
                self._input = {name: message[name] for name in ("width", "height", "fps", "codec", "audio", "deinterlaced")}
            case "output":
                self._output = {name: message[name] for name in ("width", "height")}
                self._made = {name: message[name] for name in ("encoder", "engine", "precision")}
            case "frames":
                self._count(message)
            case "model":
                self._meter.switch(_known(message["model"], MODEL_NAMES), _known(message["reason"], (*STEPS_DOWN, *STEPS_UP)))
                self._made |= {name: message[name] for name in ("engine", "precision")}
            case "reconnect":
                self.reconnect(_known(message["reason"], get_args(SourceReason)))
                self.has_source = self.has_source and message["side"] != "source"
            case other:
                raise ValueError(f"a worker says {other!r}")

    def reconnect(self, reason: str) -> None:
        """A connection, or the worker, was started again."""
        log.info("%s connects again: %s", self.label, reason)
        self._reconnects += 1
        self._metrics.reconnects_total.labels(reason).inc()

    def start_again(self, error: ServiceError) -> None:
        """Its worker is gone, or could not be started; another one follows."""
        log.warning("%s is started again: %s", self.label, redacted(error.message))
        self.reconnect(error.code)
        self.begin_again()

    def begin_again(self) -> None:
        """Another worker follows."""
        self._settle()
        self._meter.switch(self.record.plan.model, "engine_back")
        self._go("starting", None)

    def is_awaited(self, patience: float) -> bool:
        """Whether somebody was let in who has not begun, in the last `patience` seconds."""
        return self._publisher is not None and self._admitted is not None and self._clock() - self._admitted < patience

    def tick(self) -> None:
        """Takes the figures of the time since it was called last."""
        self._stats = self._meter.stats()

    def end(self, reason: str | None, error: ServiceError | None) -> None:
        """It is over.

        Args:
            reason: why it ended, if nobody had it end.
            error: why it failed.
        """
        self._settle()
        self.state = "failed" if error else "ended"
        self._reason = self._reason or reason
        if error:
            self._error = {"code": error.code, "message": redacted(error.message)}
            self._metrics.stream_faults_total.labels(error.code).inc()
        self._stats = {**self._meter.stats(), "fps_in": 0.0, "fps_out": 0.0}
        self._meter.close()
        log.info("%s is over: %s", self.label, error.code if error else self._reason)

    def figures(self) -> dict[str, Any]:
        """All there is to say of it, JSON-able."""
        meter = self._meter
        frames = {"in": meter.taken, "delivered": meter.delivered, "dropped": meter.drops.total(), "failed": meter.failed}
        return {
            "state": self.state,
            "reason": self._reason and redacted(self._reason)[:REASON_CHARACTERS],
            "error": self._error,
            "model": meter.model,
            **self._made,
            "input": self._input,
            "output": self._output,
            **self._stats,
            "drops": dict(meter.drops),
            "reconnects": self._reconnects,
            "frames": {**frames, "held": self._held, "under_way": self._under_way},
        }

    def _settle(self) -> None:
        """What the worker still had is lost."""
        meter = self._meter
        if (lost := meter.taken - meter.delivered - meter.failed - meter.drops.total()) > 0:
            meter.drop("lost", lost)
        self._under_way = 0

    def _go(self, state: RelayState, reason: str | None) -> None:
        if state in ("ended", "failed") or state == self.state:  # its last message says that it ended, and why
            return
        log.info("%s is %s%s", self.label, state, f": {reason}" if reason else "")
        self.state, self.since = state, self._clock()
        if state == "running":
            self._begun()
        self.has_source = self.has_source and state != "holding"

    def _begun(self) -> None:
        self.has_source, self._admitted = True, None

    def _count(self, message: dict[str, Any]) -> None:
        self._meter.take(int(message["in"]))
        for seconds, *stages in message["delivered"]:
            self._meter.deliver(seconds, stages)
        for reason, frames in message["dropped"].items():
            self._meter.drop(_known(reason, get_args(RelayDrop)), int(frames))
        if failed := int(message["failed"]):
            self._meter.fail(failed)
        self._held += int(message["held"])
        self._under_way = int(message["under_way"])


def error_of(message: dict[str, Any]) -> ServiceError:
    """What a worker says that went wrong."""
    code = message["code"] if message["code"] in CODES else "internal"
    return ServiceError(code, str(message["message"])[:REASON_CHARACTERS])


def _known(word: Any, known: tuple[Any, ...]) -> Any:
    """`word`, if it is one of these: workers parse what strangers send, and metrics have few labels.

    Raises:
        ValueError: it is not.
    """
    if word not in known:
        raise ValueError(f"a worker says {str(word)[:40]!r}, not one of {', '.join(known)}")
    return word
