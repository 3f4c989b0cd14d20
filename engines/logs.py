"""The log of every process: one line for one event, in one form, without traces, and without secrets wherever they came from.

The api process says which form it is and to whom a worker's lines belong; the engine, the forkserver and workers follow it.
Knows nothing of requests or streams but their names.
"""

import json
import logging
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)

FORM_VARIABLE = "FOURFOLD_LOG_FORMAT"
FORMS = ("console", "json")

REPEAT_SECONDS = 10.0
"""A warning that is said again within this time is only counted."""
REMEMBERED = 256  # different warnings

SECRETS = (
    (re.compile(r"ff_[A-Za-z0-9_-]{8,}"), "ff_…"),  # our own API keys
    (re.compile(r"(?i)(\brtmps?://[^\s?'\"]*\?)[^\s'\"]+"), r"\1…"),  # of streams: each server has its own names for keys
    (re.compile(r"(?i)([a-z_-]*(?:key|token|secret|password|passwd))=[^&\s\"'<>]+"), r"\1=…"),  # stream keys in URLs
    (re.compile(r"(://)[^/@\s]+@"), r"\1…@"),  # name and password in URLs
    (re.compile(r"(?i)\b(bearer)\s+(?!ff_)[\w.~+/=-]+"), r"\1 …"),
)

_about: ContextVar[Mapping[str, str] | None] = ContextVar("about", default=None)
_process: dict[str, str] = {}


def redacted(text: str) -> str:
    """`text` with whatever looks like a key, a token or a password made unreadable."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def about() -> dict[str, str]:
    """What lines that are written now belong to: ids by name, such as `request` and `stream`."""
    return {**_process, **(_about.get() or {})}


@contextmanager
def belonging(**ids: str) -> Iterator[None]:
    """Lines that are written inside, also by tasks that are started inside, belong to these."""
    token = _about.set({**(_about.get() or {}), **ids})
    try:
        yield
    finally:
        _about.reset(token)


def belong(ids: Mapping[str, str]) -> None:
    """All lines of this process belong to these: it has no other work."""
    _process.update(ids)


class ConsoleFormatter(logging.Formatter):
    """For people: an exception is named with its place in the source, control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        names = "".join(f" {name}={value}" for name, value in about().items())
        return f"{self.formatTime(record)} {record.levelname} {record.name}: {_plain(_message(record))}{names}"


class JsonFormatter(logging.Formatter):
    """For machines: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"time": moment, "level": record.levelname.lower(), "logger": record.name, "message": _plain(_message(record))}
        return json.dumps({**head, "pid": record.process, **about()}, ensure_ascii=False)


class Patience(logging.Filter):
    """Lets the same warning through once in a while, with the number of those that it kept back."""

    def __init__(self, seconds: float = REPEAT_SECONDS) -> None:
        super().__init__()
        self._seconds, self._lock = seconds, threading.Lock()
        self._said: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()  # when, and how often since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text, now = _message(record), time.monotonic()
        with self._lock:
            since, kept = self._said.get((record.name, text), (float("-inf"), 0))
            if now - since < self._seconds:
                self._said[record.name, text] = since, kept + 1
                return False
            self._said[record.name, text] = now, 0
            self._said.move_to_end((record.name, text))
            if len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
        if kept:
            record.msg, record.args, record.exc_info = f"{text} (and {kept} times more since it was said last)", (), None
        return True


def configure(form: str | None = None) -> None:
    """Sends the log of this process to stderr; libraries speak up only to warn.

    Args:
        form: one of FORMS, for the processes that this one starts too; None: what the process that started this one said.
    """
    if form:
        os.environ[FORM_VARIABLE] = form
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if os.environ.get(FORM_VARIABLE) == "json" else ConsoleFormatter())
    handler.addFilter(Patience())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for package in ("server", "engines"):
        logging.getLogger(package).setLevel(logging.INFO)
    sys.excepthook = _log_uncaught


def _log_uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    log.critical("the process ends", exc_info=error)


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[1]:
        text = f"{text.strip()} ({_described(record.exc_info[1])})"
    return text


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in redacted(text))


def _described(error: BaseException) -> str:
    """The type of an error and where it was raised; not its message, which may quote what a client sent."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
    cause = f" from {_described(error.__cause__)}" if error.__cause__ else ""
    return f"{type(error).__name__}{where}{cause}"
