#!/usr/bin/env python3
"""Writes dashboards/*.json from source/*.toml, where a panel is a few lines of data.

    python3 grafana/build.py            # writes them
    python3 grafana/build.py --check    # exit status 1 if a committed file is not what it writes

In queries, `{SERVERS}` and `{JOBS}` stand for the selection at the top of a dashboard:
`up{SERVERS}` becomes `up{job=~"$job", instance=~"$instance"}`.
"""

import argparse
import json
import sys
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Json = dict[str, Any]

SELECTIONS = {"SERVERS": 'job=~"$job", instance=~"$instance"', "JOBS": 'job=~"$job"'}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: Of Grafana 11.6; newer versions of Grafana migrate older schemas.
SCHEMA_VERSION = 41
COLUMNS = 24
HEIGHTS = {"stat": 4, "timeseries": 8, "heatmap": 8, "bargauge": 8}
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
#: Events drawn as vertical lines on all panels.
EVENTS = (
    ("Restarts", "orange", "changes(process_start_time_seconds{SERVERS}[2m]) > 0"),
    ("Versions promoted", "blue",
     'increase(candor_model_swaps_total{SERVERS, outcome="served"}[2m]) > 0'),
)


class SourceError(Exception):
    """A mistake in source/*.toml."""


@dataclass
class Panel:
    """A panel as source/*.toml describes it."""

    title: str
    unit: str
    about: str
    kind: str = "timeseries"
    width: int = 8
    #: Legend and expression of each query; instead `quantiles` or `heatmap` name a histogram.
    queries: list[list[str]] = field(default_factory=list)
    quantiles: str = ""
    heatmap: str = ""
    #: Color, and the value from which it holds, except of the first.
    steps: list[list[Any]] = field(default_factory=list)
    #: Values at which a line is drawn.
    lines: list[float] = field(default_factory=list)
    stack: bool = False
    log: bool = False
    #: Show the series' names instead of their values.
    names: bool = False

    def targets(self) -> list[list[str]]:
        """Legends and expressions of all queries."""
        buckets = f"rate({self.quantiles}_bucket{{SERVERS}}[$__rate_interval])"
        of_quantiles = [
            [name, f"histogram_quantile({q}, sum by (le) ({buckets}))"] for name, q in QUANTILES
        ]
        of_heatmap = f"sum by (le) (increase({self.heatmap}_bucket{{SERVERS}}[$__rate_interval]))"
        targets = [*self.queries, *(of_quantiles if self.quantiles else [])]
        return [*targets, *([["{{le}}", of_heatmap]] if self.heatmap else [])]


def read_panel(source: Json, where: str) -> Panel:
    known = {option.name for option in fields(Panel)}
    if unknown := sorted(source.keys() - known):
        raise SourceError(f"{where}: unknown option {unknown[0]!r}")
    if missing := sorted({"title", "unit", "about"} - source.keys()):
        raise SourceError(f"{where}: {missing[0]!r} is missing")
    panel = Panel(**source)
    where = f"{where}, {panel.title!r}"
    if panel.kind not in HEIGHTS:
        raise SourceError(f"{where}: kind is {panel.kind!r}, must be one of {', '.join(HEIGHTS)}")
    if not panel.targets() or not all(legend and expr for legend, expr in panel.targets()):
        raise SourceError(f"{where}: every panel needs queries, each with a legend")
    if (panel.kind == "heatmap") != bool(panel.heatmap):
        raise SourceError(f"{where}: kind heatmap and option heatmap belong together")
    return panel


def expression(source: str) -> str:
    for name, selection in SELECTIONS.items():
        source = source.replace(f"{{{name}", f"{{{selection}")
    return source


def thresholds(panel: Panel) -> Json:
    steps = panel.steps or [["transparent"], *(["red", line] for line in panel.lines)]
    if not panel.steps and not panel.lines:
        steps = [["text" if panel.kind == "stat" else "green"]]
    colors = [{"color": color, "value": value[0] if value else None} for color, *value in steps]
    return {"mode": "absolute", "steps": colors}


def field_config(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "thresholds": thresholds(panel)}
    if panel.unit == "percentunit" and panel.kind == "timeseries":
        defaults |= {"min": 0, "max": 1}
    if panel.kind == "timeseries":
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 40 if panel.stack else 8,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.log else {"type": "linear"},
            "thresholdsStyle": {"mode": "dashed" if panel.lines else "off"},
        }
    elif panel.kind in ("stat", "bargauge"):
        defaults["color"] = {"mode": "thresholds"}
    return {"defaults": defaults, "overrides": []}


def options(panel: Panel) -> Json:
    last = {"values": False, "calcs": ["lastNotNull"], "fields": ""}
    if panel.kind == "stat":
        return {
            "reduceOptions": last, "graphMode": "none", "colorMode": "value",
            "justifyMode": "auto", "textMode": "name" if panel.names else "auto",
            "orientation": "auto", "wideLayout": True, "showPercentChange": False,
            "percentChangeColorMode": "standard",
        }
    if panel.kind == "bargauge":
        return {
            "reduceOptions": last, "displayMode": "basic", "orientation": "horizontal",
            "valueMode": "color", "namePlacement": "left", "showUnfilled": True,
            "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300,
        }
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "color": {"mode": "scheme", "scheme": "Blues", "fill": "dark-blue", "steps": 32,
                      "reverse": False, "exponent": 0.5},
            "yAxis": {"unit": panel.unit, "axisPlacement": "left"},
            "rowsFrame": {"layout": "le"},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": True},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "showValue": "never", "cellGap": 1,
        }
    return {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def target(panel: Panel, position: int, legend: str, source: str) -> Json:
    instant = panel.kind in ("stat", "bargauge")
    return {
        "refId": chr(ord("A") + position),
        "datasource": DATASOURCE,
        "expr": expression(source),
        "legendFormat": legend,
        "editorMode": "code",
        "instant": instant,
        "range": not instant,
        "format": "heatmap" if panel.kind == "heatmap" else "time_series",
    }


def panel_json(panel: Panel) -> Json:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "targets": [target(panel, at, *query) for at, query in enumerate(panel.targets())],
        "fieldConfig": field_config(panel),
        "options": options(panel),
        "transparent": False,
        "transformations": [],
    }


def laid_out(sections: list[Json], where: str) -> list[Json]:
    """Places panels from left to right, a heading above each section."""
    panels: list[Json] = []
    y = 0
    for section in sections:
        heading = {"type": "row", "title": section["title"], "collapsed": False, "panels": [],
                   "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}
        panels.append(heading)
        x, y, height = 0, y + 1, 0
        for source in section["panel"]:
            panel = read_panel(source, f"{where}, section {section['title']!r}")
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            height = max(height, HEIGHTS[panel.kind])
            at = {"x": x, "y": y, "w": panel.width, "h": HEIGHTS[panel.kind]}
            panels.append(panel_json(panel) | {"gridPos": at})
            x += panel.width
        y += height
    return [{"id": number, **panel} for number, panel in enumerate(panels, 1)]


def label_variable(name: str, label: str, query: str) -> Json:
    return {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "hide": 0,
        "multi": True, "includeAll": True, "allValue": ".+", "skipUrlSync": False,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def variables() -> list[Json]:
    datasource = {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        "hide": 0, "multi": False, "includeAll": False, "skipUrlSync": False,
    }
    return [
        datasource,
        label_variable("job", "Job", "label_values(candor_build_info, job)"),
        label_variable(
            "instance", "Instance", 'label_values(candor_build_info{job=~"$job"}, instance)'
        ),
    ]


def annotation(name: str, color: str, source: str) -> Json:
    return {
        "name": name, "datasource": DATASOURCE, "enable": True, "hide": False, "iconColor": color,
        "expr": expression(source),
    }


def dashboard(name: str, source: Json) -> Json:
    link = {
        "title": "Candor", "type": "dashboards", "tags": ["candor"], "asDropdown": False,
        "icon": "external link", "tooltip": "", "url": "", "targetBlank": False,
        "includeVars": True, "keepTime": True,
    }
    return {
        "uid": f"candor-{name}",
        "title": source["title"],
        "description": source["about"],
        "tags": ["candor"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": source["range"], "to": "now"},
        "timezone": "browser",
        "refresh": "30s",
        "fiscalYearStartMonth": 0,
        "templating": {"list": variables()},
        "annotations": {"list": [annotation(*event) for event in EVENTS]},
        "links": [link],
        "panels": laid_out(source["section"], f"source/{name}.toml"),
    }


def built() -> dict[Path, str]:
    """The text of every dashboard, by its file."""
    texts = {}
    for path in sorted((HERE / "source").glob("*.toml")):
        try:
            source = tomllib.loads(path.read_text(encoding="utf-8"))
            made = dashboard(path.stem, source)
        except (tomllib.TOMLDecodeError, KeyError) as error:
            raise SourceError(f"source/{path.name}: {error}") from error
        text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
        texts[HERE / "dashboards" / f"{path.stem}.json"] = text
    return texts


def stale(texts: dict[Path, str]) -> list[str]:
    """Names of files that are not what this program writes."""
    committed = {path: path.read_text(encoding="utf-8") for path in
                 (HERE / "dashboards").glob("*.json")}
    return sorted(path.name for path in committed.keys() | texts.keys()
                  if committed.get(path) != texts.get(path))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    try:
        texts = built()
    except SourceError as error:
        print(f"grafana/build.py: {error}", file=sys.stderr)
        return 1
    if check:
        for name in (names := stale(texts)):
            print(f"grafana/dashboards/{name} is not what grafana/build.py writes")
        return 1 if names else 0
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
