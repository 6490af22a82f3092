"""Dashboards as Grafana reads them: their queries, and their form against Grafana's types."""

import enum
import json
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

Json = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """A query of a panel or of an annotation."""

    dashboard: str
    panel: str
    legend: str
    expression: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard}, {self.panel!r}, {self.legend!r}"


def read(folder: Path) -> dict[str, Json]:
    """All dashboards of a folder by name."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8"))
             for path in sorted(folder.glob("*.json"))}
    if not found:
        raise SystemExit(f"{folder}: no dashboards (*.json)")
    return found


def queries(name: str, dashboard: Json) -> Iterator[Query]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            legend, instant = target["legendFormat"], target["instant"]
            yield Query(name, panel["title"], legend, target["expr"], instant)
    for event in dashboard["annotations"]["list"]:
        yield Query(name, "annotation", event["name"], event["expr"], False)


def substituted(expression: str, values: dict[str, str]) -> str:
    """An expression with Grafana's variables replaced; longer names first."""
    for name in sorted(values, key=len, reverse=True):
        expression = expression.replace(f"${name}", values[name])
    return expression


def incomplete(name: str, dashboard: Json) -> list[str]:
    """What panels and variables lack that an operator needs."""
    problems = []
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    if lacking := {"datasource", "job", "instance"} - variables:
        problems.append(f"{name}: variables are missing: {sorted(lacking)}")
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        where = f"{name}, {panel['title']!r}"
        if not panel.get("description"):
            problems.append(f"{where}: no description")
        if not panel["fieldConfig"]["defaults"].get("unit"):
            problems.append(f"{where}: no unit")
        if not all(target.get("legendFormat") for target in panel["targets"]):
            problems.append(f"{where}: a query without a legend")
        if panel["type"] == "timeseries" and not panel["options"]["legend"]["showLegend"]:
            problems.append(f"{where}: the legend is hidden")
    return problems


def overlapping(name: str, dashboard: Json) -> list[str]:
    """Panels that cover each other or reach beyond the grid of 24 columns."""
    taken: dict[tuple[int, int], str] = {}
    problems = []
    for panel in dashboard["panels"]:
        at, where = panel["gridPos"], f"{name}, {panel['title']!r}"
        cells = [(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])]
        if any(x >= 24 for x, _ in cells):
            problems.append(f"{where}: beyond the right edge")
        if under := {taken[cell] for cell in cells if cell in taken}:
            problems.append(f"{where}: covers {sorted(under)}")
        taken.update(dict.fromkeys(cells, panel["title"]))
    return problems


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type that Grafana's classes declare for its field."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if origin is typing.Literal:
        return value in inner
    if hint in (Any, object):
        return True
    if hint is float:
        finite = isinstance(value, int | float) and math.isfinite(value)
        return finite and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in {member.value for member in hint} | set(hint)
    return isinstance(value, hint)


def misfits(value: Any, where: str) -> Iterator[str]:
    """Fields of Grafana's objects, at any depth, with values of another type."""
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from misfits(item, f"{where}[{number}]")
    elif type(value).__module__.startswith("grafana_foundation_sdk"):
        for name, hint in typing.get_type_hints(type(value)).items():
            field = getattr(value, name, None)
            if not fits(field, hint):
                yield f"{where}.{name}: {field!r} is not {hint}"
            yield from misfits(field, f"{where}.{name}")


def lost(given: Any, kept: Any, where: str) -> Iterator[str]:
    """What Grafana's classes dropped or changed: fields that they do not know."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name in kept:
                yield from lost(value, kept[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}: no such field in Grafana's types"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, pair in enumerate(zip(given, kept, strict=True)):
            yield from lost(*pair, f"{where}[{number}]")
    elif given != kept:
        yield f"{where}: {given!r} became {kept!r}"


def against_types(name: str, dashboard: Json) -> list[str]:
    """Reads a dashboard into the classes generated from Grafana's schemas, and back."""
    register_default_plugins()
    try:
        typed = Dashboard.from_json(dashboard)
    except (KeyError, ValueError, TypeError) as error:
        return [f"{name}: Grafana's types cannot read it: {error!r}"]
    back = json.loads(json.dumps(typed, cls=JSONEncoder))
    return [*lost(dashboard, back, name), *misfits(typed, name)]
