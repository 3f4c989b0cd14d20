"""What the dashboards are written with: lines of PromQL, and panels that look alike. Knows no metric by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from grafana_foundation_sdk.builders import common as parts
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models

WINDOW = "$__rate_interval"
"""Of rates: Grafana puts in some times the interval of the scrapes."""

LIVE = 'kind=~"relay|websocket"'

GREEN, YELLOW, RED = "green", "yellow", "red"

Thresholds = Sequence[tuple[float | None, str]]
"""Colours, each with the value that it begins at; the first one has none."""

PLAIN: Thresholds = [(None, GREEN)]
FRAME_TIMES: Thresholds = [(None, GREEN), (0.0167, YELLOW), (0.0333, RED)]
"""Of seconds: one frame of 60 frames/s, one of 30."""

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

Panel = TypeVar("Panel", timeseries.Panel, stat.Panel)


@dataclass(frozen=True)
class Line:
    """A query and the name of what comes of it, in which {{label}} stands for a label's value."""

    query: str
    legend: str


def rate(metric: str, by: str = "", where: str = "") -> str:
    """How much a counter grows each second, summed by labels."""
    return f"{_sum(by)} (rate({metric}{_braces(where)}[{WINDOW}]))"


def increase(metric: str, by: str = "", where: str = "", over: str = WINDOW) -> str:
    """How much a counter grew in a while, summed by labels."""
    return f"{_sum(by)} (increase({metric}{_braces(where)}[{over}]))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """A quantile of what a histogram observed, by labels; nothing, and not NaN, where it observed nothing."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, where)}) >= 0"


def quantiles(metric: str, where: str = "") -> list[Line]:
    """The three quantiles that everybody looks at."""
    return [Line(quantile(share, metric, where=where), name) for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))]


def ratio(part: str, whole: str) -> str:
    """A share; nothing, and not NaN, where there is no whole."""
    return f"({part}) / ({whole} > 0)"


def curve(
    title: str,
    description: str,
    unit: str,
    *lines: Line,
    stacked: bool = False,
    thresholds: Thresholds = PLAIN,
    width: int = 12,
    most: float | None = None,
) -> timeseries.Panel:
    """A picture over time. Thresholds are dashed lines; `most` is the top of the axis."""
    table = (
        parts.VizLegendOptions().display_mode(options.LegendDisplayMode.TABLE).show_legend(True).calcs(["lastNotNull", "max"])
    )
    panel = (
        timeseries.Panel()
        .legend(table.placement(options.LegendPlacement.BOTTOM))
        .tooltip(parts.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI))
        .line_width(1)
        .fill_opacity(40 if stacked else 10)
        .show_points(options.VisibilityMode.NEVER)
        .min(0)
        .height(8)
    )
    if stacked:
        panel.stacking(parts.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))
    if len(thresholds) > 1:
        panel.thresholds_style(parts.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED))
    if most is not None:
        panel.max(most)
    return _finished(panel, title, description, unit, lines, thresholds, width)


def figure(
    title: str,
    description: str,
    unit: str,
    *lines: Line,
    thresholds: Thresholds = PLAIN,
    width: int = 4,
    shows: Literal["auto", "name"] = "auto",
) -> stat.Panel:
    """The latest value, large, in the colour of its threshold; or, where the value is always 1, the names of what there is."""
    panel = (
        stat.Panel()
        .reduce_options(parts.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(options.BigValueColorMode.BACKGROUND if len(thresholds) > 1 else options.BigValueColorMode.VALUE)
        .graph_mode(options.BigValueGraphMode.NONE if shows == "name" else options.BigValueGraphMode.AREA)
        .text_mode(options.BigValueTextMode(shows))
        .no_value("none")
        .height(4)
    )
    return _finished(panel, title, description, unit, lines, thresholds, width)


def page(
    name: str, title: str, description: str, *rows: tuple[str, Sequence[timeseries.Panel | stat.Panel]]
) -> models.Dashboard:
    """A dashboard of rows of panels.

    Args:
        name: of its address and its file.
        title: of it.
        description: of it.
        rows: headings with what stands below each.
    """
    made = (
        dashboard.Dashboard(f"Fourfold: {title}")
        .uid(f"fourfold-{name}")
        .description(description)
        .tags(["fourfold"])
        .readonly()
        .refresh("5s")
        .time("now-15m", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(dashboard.DashboardLink("Fourfold").type(models.DashboardLinkType.DASHBOARDS).tags(["fourfold"]).keep_time(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for heading, panels in rows:
        made.with_row(dashboard.Row(heading))
        for panel in panels:
            made.with_panel(panel)
    built = made.build()
    for number, one in enumerate(built.panels or [], 1):  # so that links to a panel last
        one.id_val = number
    return built


def _finished(
    panel: Panel, title: str, description: str, unit: str, lines: Sequence[Line], thresholds: Thresholds, width: int
) -> Panel:
    """What all panels have."""
    steps = [models.Threshold(value, colour) for value, colour in thresholds]
    panel.title(title).description(description).unit(unit).datasource(DATASOURCE).span(width)
    panel.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    for letter, line in zip("ABCDEFGH", lines, strict=False):
        query = prometheus.Dataquery().expr(line.query).legend_format(line.legend).ref_id(letter)
        panel.with_target(query.datasource(DATASOURCE))
    return panel


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"


def _braces(where: str) -> str:
    return f"{{{where}}}" if where else ""
