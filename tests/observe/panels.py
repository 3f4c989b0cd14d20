"""The panels of the dashboards, and what they show at one moment."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.prometheus import Prometheus, Sample

DOCKER = Path(__file__).parents[2] / "docker"
PAGES = ("live", "engine", "service")
WINDOW = "10s"
"""What Grafana would put in for $__rate_interval, were it to look at the last minute."""


@dataclass(frozen=True)
class Line:
    """One query of a panel."""

    page: str
    panel: str
    letter: str  # A is the first of its panel
    query: str
    legend: str
    unit: str

    def show(self, sample: Sample) -> str:
        """As a person reads it."""
        legend = self.legend
        for label, value in sample.labels.items():
            legend = legend.replace(f"{{{{{label}}}}}", value)
        return f"{legend} = {sample.value:.4g}"


Look = dict[Line, list[Sample]]
"""What each line shows."""


def read_lines() -> list[Line]:
    """All queries of all dashboards, as they are committed; and for each alert, how many of it there are or will soon be."""
    lines = []
    for page in PAGES:
        for panel in json.loads((DOCKER / "grafana" / "dashboards" / f"{page}.json").read_text())["panels"]:
            unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
            for target in panel.get("targets", ()):
                query = target["expr"].replace("$__rate_interval", WINDOW)
                lines.append(Line(page, panel["title"], target["refId"], query, target["legendFormat"], unit))
    for alert in re.findall(r"- alert: (\w+)", (DOCKER / "prometheus" / "alerts.yml").read_text()):
        lines.append(Line("alerts", alert, "A", f'count(ALERTS{{alertname="{alert}"}}) or vector(0)', "alerts", "none"))
    return lines


def look(prometheus: Prometheus, lines: list[Line]) -> Look:
    """Asks for all of them."""
    return {line: prometheus.query(line.query) for line in lines}


def blank(seen: Look) -> list[Line]:
    """Lines that show nothing, or something that is no number."""
    return [line for line, samples in seen.items() if not samples or any(math.isnan(sample.value) for sample in samples)]
