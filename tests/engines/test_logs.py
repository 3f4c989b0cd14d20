"""Lines of the log: in one form, whose they are, without secrets, and not the same one all the time."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from engines.logs import ConsoleFormatter, JsonFormatter, Patience, belonging, redacted

Make = Callable[..., logging.LogRecord]


@pytest.fixture
def record() -> Make:
    def make(text: str, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
        return logging.LogRecord("server.part", level, "part.py", 1, text, arguments, None)

    return make


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("rtmp://host/live/name?key=abc&x=1", "rtmp://host/live/name?…"),
        ("POST /hooks/rtmp/publish?secret=abc refused", "POST /hooks/rtmp/publish?secret=… refused"),
        ("http://host/live?key=abc&x=1", "http://host/live?key=…&x=1"),
        ("https://host/?access_token=abc.def", "https://host/?access_token=…"),
        ("rtmps://me:word@host/app", "rtmps://…@host/app"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer …"),
        ("ff_0123456789 is gone", "ff_… is gone"),
        ("no secrets = no harm", "no secrets = no harm"),
    ],
)
def test_secrets_are_made_unreadable(text: str, plain: str, record: Make) -> None:
    assert redacted(text) == plain
    assert json.loads(JsonFormatter().format(record("%s", text)))["message"] == plain


def test_lines_tell_whose_they_are(record: Make) -> None:
    async def line() -> str:
        return JsonFormatter().format(record("late"))

    async def session() -> str:
        with belonging(request="r1"), belonging(stream="websocket-1"):
            return await asyncio.create_task(line())

    entry = json.loads(asyncio.run(session()))
    assert (entry["request"], entry["stream"]) == ("r1", "websocket-1")
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "server.part", "late")
    with belonging(job="j1"):
        assert ConsoleFormatter().format(record("late")).endswith(" WARNING server.part: late job=j1")
    assert "job" not in json.loads(JsonFormatter().format(record("late")))


def test_an_event_is_one_line(record: Make) -> None:
    for formatter in (ConsoleFormatter(), JsonFormatter()):
        assert "\n" not in formatter.format(record("two\nlines\x1b[31m"))


def test_a_warning_that_comes_again_is_counted(record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("engines.logs.time.monotonic", lambda: now[0])
    patience = Patience(10)
    assert [patience.filter(record("slow %s", "disk")) for _ in range(4)] == [True, False, False, False]
    assert patience.filter(record("slow %s", "network"))
    assert all(patience.filter(record("served", level=logging.INFO)) for _ in range(3))
    now[0] = 10.0
    again = record("slow %s", "disk")
    assert patience.filter(again)
    assert again.getMessage() == "slow disk (and 3 times more since it was said last)"


def test_processes_that_are_started_follow() -> None:
    script = """
import subprocess, sys
from engines import logs
logs.configure("json")
child = "import logging; from engines import logs; logs.configure(); logs.belong({'stream': 's1'}); "
child += "logging.getLogger('engines.host').warning('lost'); raise KeyError('ff_secretsecret')"
subprocess.run([sys.executable, "-c", child])
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    first, last = map(json.loads, told.stderr.splitlines())
    assert (first["message"], first["stream"], first["level"]) == ("lost", "s1", "warning")
    assert (last["level"], last["stream"]) == ("critical", "s1")
    assert "KeyError" in last["message"] and "secretsecret" not in told.stderr
