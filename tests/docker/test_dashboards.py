"""The dashboards that Grafana loads are those of the code, and whoever looks at one knows what it shows."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, RowPanel
from prometheus_client import Metric

from server.metrics import Metrics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "grafana" / "dashboards"
PAGES = ("live", "engine", "service")
FOREIGN = {"up", "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"}
"""Metrics of Prometheus itself, and of every process."""


def load(page: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{page}.json").read_text()))


def panels(page: str) -> list[dict[str, Any]]:
    return [panel for panel in load(page)["panels"] if panel["type"] != "row"]


EVERY = [pytest.param(panel, id=f"{page}: {panel['title']}") for page in PAGES for panel in panels(page)]


def test_what_is_committed_is_what_the_code_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER, "--into", tmp_path], check=True, cwd=ROOT, timeout=60)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.glob("*.json")}
    for path in tmp_path.iterdir():
        assert (FOLDER / path.name).read_text() == path.read_text(), f"{path.name} is stale: run `make dashboards`"


@pytest.mark.parametrize("page", PAGES)
def test_the_schema_of_grafana_loses_nothing_of_it(page: str) -> None:
    register_default_plugins()
    read = Dashboard.from_json(load(page))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == load(page)
    assert not any(isinstance(panel, RowPanel) and panel.panels for panel in read.panels or [])


@pytest.mark.parametrize("page", PAGES)
def test_panels_have_places_and_names_of_their_own(page: str) -> None:
    every = load(page)["panels"]
    assert len({panel["id"] for panel in every}) == len({panel["title"] for panel in every}) == len(every)
    taken = set[tuple[int, int]]()
    for place in (panel["gridPos"] for panel in every):
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and all(x < 24 for x, _ in cells)
        taken |= cells


@pytest.mark.parametrize("panel", EVERY)
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    assert panel["targets"] and all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("panel", EVERY)
def test_a_panel_asks_for_metrics_and_labels_that_there_are(panel: dict[str, Any]) -> None:
    labels = {name: set(metric_labels) for name, metric_labels in _metrics().items()}
    for target in panel["targets"]:
        names = set(re.findall(r"\b(fourfold_\w+|process_\w+|up)\b(?=[{\[ )]|$)", target["expr"]))
        assert names and names <= labels.keys() | FOREIGN, target["expr"]
        known = set[str]().union(*(labels[name] for name in names - FOREIGN)) | {"job", "instance", "le"}
        legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        matched = set(re.findall(r'(\w+)[=!]~?"', target["expr"]))
        assert legend | matched <= known, target["expr"]


def _metrics() -> dict[str, tuple[str, ...]]:
    """The series of the service by name, each with its labels."""
    metrics = Metrics()
    found = dict[str, tuple[str, ...]]()
    for member in vars(metrics).values():
        if hasattr(member, "_labelnames"):
            for family in member.describe():
                found |= dict.fromkeys(_series(family), member._labelnames)
    return found


def _series(family: Metric) -> list[str]:
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    return [family.name + ending for ending in endings.get(family.type, [""])]


def test_docker_is_no_package() -> None:
    assert not (ROOT / "docker" / "__init__.py").exists()  # it would hide the library of that name


def test_grafana_looks_for_them_where_they_are_mounted() -> None:
    provisioning = ROOT / "docker" / "grafana" / "provisioning"
    assert "path: /var/lib/grafana/dashboards" in (provisioning / "dashboards" / "fourfold.yml").read_text()
    assert "type: prometheus" in (provisioning / "datasources" / "prometheus.yml").read_text()
