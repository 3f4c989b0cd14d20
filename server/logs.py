"""The service's log: one line for one event, without traces, and without keys even where a client put one somewhere odd."""

import logging
import re
from pathlib import Path

KEY = re.compile(r"ff_[A-Za-z0-9_-]{8,}")
PASSWORD = re.compile(r"(\brtmps?://)[^\s/@]*@", re.IGNORECASE)
QUERY = re.compile(r"(\brtmps?://[^\s?'\"]*\?)[^\s'\"]+", re.IGNORECASE)


def redacted(text: str) -> str:
    """`text` with whatever looks like an API key, or like a password or stream key in a URL, made unreadable."""
    return QUERY.sub(r"\1…", PASSWORD.sub(r"\1…@", KEY.sub("ff_…", text)))


class LineFormatter(logging.Formatter):
    """One line: an exception is named with its place in the source, control characters are escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            line = f"{line.strip()} ({_described(record.exc_info[1])})"
        plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in redacted(line))
        return f"{self.formatTime(record)} {record.levelname} {record.name}: {plain}"


def configure() -> None:
    """Sends the log of the whole process to stderr; libraries speak up only to warn."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("server", "engines"):
        logging.getLogger(package).setLevel(logging.INFO)


def _described(error: BaseException) -> str:
    """The type of an error and where it was raised; not its message, which may quote what a client sent."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
    cause = f" from {_described(error.__cause__)}" if error.__cause__ else ""
    return f"{type(error).__name__}{where}{cause}"
