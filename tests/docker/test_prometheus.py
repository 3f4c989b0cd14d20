"""Prometheus takes our configuration; every alert fires when it should, is silent when it should, and is explained."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from server.metrics import Metrics
from server.relays import PASSING
from server.settings import Settings
from server.streams.relay_protocol import SourceReason

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "prometheus"
CASES = Path(__file__).parent / "alerts_test.yml"
ALERTS = re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text())

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed; make test installs it")


def promtool(*arguments: str | Path) -> str:
    ran = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@needs_promtool
def test_prometheus_takes_the_configuration(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    text = (FOLDER / "prometheus.yml").read_text()
    assert text.count("/run/secrets/metrics_key") == 1
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/metrics_key", str(key)))
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    assert f"{len(ALERTS)} rules found" in promtool("check", "config", tmp_path / "prometheus.yml")


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", CASES)


def test_every_alert_has_a_case() -> None:
    tried = set(re.findall(r'alertname="(\w+)"', CASES.read_text()))
    assert len(ALERTS) >= 10 and tried == set(ALERTS)


def test_every_alert_has_its_paragraph() -> None:
    headings = re.split(r"^## ", (ROOT / "docs" / "runbook.md").read_text(), flags=re.MULTILINE)[1:]
    paragraphs = {heading.partition("\n")[0]: heading.partition("\n")[2].strip() for heading in headings}
    assert list(paragraphs) == ALERTS
    assert all(len(paragraph) > 100 for paragraph in paragraphs.values())
    linked = re.findall(r"runbook: docs/runbook\.md#(\w+)", (FOLDER / "alerts.yml").read_text())
    assert linked == [alert.lower() for alert in ALERTS]


def test_every_reason_of_a_reconnection_is_explained() -> None:
    (family,) = Metrics().reconnects_total.collect()
    reasons = {sample.labels["reason"] for sample in family.samples}
    assert reasons == {*get_args(SourceReason), *PASSING}
    paragraph = (ROOT / "docs" / "runbook.md").read_text().partition("## FourfoldReconnects")[2].partition("\n## ")[0]
    assert [reason for reason in reasons if f"`{reason}`" not in paragraph] == []


def test_the_runbook_names_settings_that_there_are() -> None:
    named = set(re.findall(r"FOURFOLD_([A-Z_]+)", (ROOT / "docs" / "runbook.md").read_text()))
    assert named and {name.lower() for name in named} <= Settings.model_fields.keys()


def test_a_paragraph_knows_how_bad_it_is() -> None:
    rules = re.split(r"- alert: ", (FOLDER / "alerts.yml").read_text())[1:]
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    for rule in rules:
        name, severity = rule.partition("\n")[0], re.findall(r"severity: (\w+)", rule)
        assert f"## {name}\n\n*{severity[0]}.*" in runbook
