"""Every panel of the dashboards shows what it should: while the service does well, and while it has too much to do."""

import shutil
from pathlib import Path

import pytest

from tests.observe.judge import GONE_LOOKS, Judge
from tests.observe.panels import Line, read_lines
from tests.observe.run import observe
from tests.observe.verdicts import VERDICTS, falls, rises, stays
from tests.support.prometheus import Sample


def test_there_is_a_verdict_on_every_panel() -> None:
    assert list(VERDICTS) == list(dict.fromkeys((line.page, line.panel) for line in read_lines()))
    assert all(verdict.why for verdicts in VERDICTS.values() for verdict in verdicts)


def test_a_verdict_compares_with_the_calmest_look() -> None:
    assert rises("").moved([0.2, 0.1], 0.16) and not rises("").moved([0.2, 0.1], 0.15)
    assert not rises("", least=0.1).moved([0.1], 0.19)
    assert falls("", least=0.1).moved([0.9, 1.0], 0.85) and not falls("", least=0.1).moved([0.9, 1.0], 0.9)
    assert stays("").left([1.0], 0.0) and stays("").left([0.0], 0.1) and not stays("", least=0.2).left([0.0], 0.1)


def test_a_verdict_is_about_the_samples_that_it_names() -> None:
    seen = {
        Line("live", "Drops", "A", "", "", ""): [Sample({"kind": "relay"}, 1), Sample({"kind": "websocket"}, 2)],
        Line("live", "Drops", "B", "", "", ""): [Sample({"kind": "relay"}, 8)],
    }
    assert rises("", of=sum).value(seen, "live", "Drops") == 3
    assert rises("", where={"kind": "websocket"}).value(seen, "live", "Drops") == 2
    assert rises("", letter="B").value(seen, "live", "Drops") == 8
    assert rises("", where={"kind": "image"}).value(seen, "live", "Drops") is None


def test_the_judge_wants_every_movement_and_no_other() -> None:
    calm = {line: [Sample({}, 1.0)] for line in read_lines()}
    judge = Judge([calm], print)
    for _ in range(GONE_LOOKS):
        judge.see({line: [Sample({}, 0.0 if line.panel == "Ready" else 1.0)] for line in calm})
    told = "\n".join(judge.faults())
    assert not judge.satisfied
    assert "engine: Ready (A, {}) has moved, but STAYS" in told
    assert "live: Latency, p99 (A, {}) has not moved, but RISES" in told
    assert "service: Up" not in told


@pytest.mark.timeout(400)
@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed; make test installs it")
def test_every_panel_shows_what_it_should(tmp_path: Path) -> None:
    faults = observe(tmp_path, print)
    assert not faults, "\n".join(faults)
