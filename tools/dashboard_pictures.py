#!/usr/bin/env python3
"""Draws the dashboards as docs/figures/dashboard-*.png, from the metrics of a real server.

    python tools/dashboard_pictures.py --candor target/release/candor [--out DIR]

Five minutes of the traffic of tests/operations/prometheus.py, read from a real Prometheus with the
dashboards' own queries and drawn in their layout; the drawing is this program's, not Grafana's.
Needs the packages of tests/operations/requirements.txt, and matplotlib.
"""

import argparse
import math
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "operations"))

import dashboards  # noqa: E402
import prometheus as operations  # noqa: E402
from servers import Candor, Failed, Prometheus  # noqa: E402

Json = dict[str, Any]
#: Legend, and points as time and value.
Series = tuple[str, list[tuple[float, float]]]
#: Left, top, width and height in pixels.
Place = tuple[float, float, float, float]

#: Waves of traffic, so that graphs have a shape: seconds and clients, before and after the restart.
LOADS: tuple[operations.Load, operations.Load] = (
    [(30, 2), (30, 5), (30, 9), (30, 3)],
    [(30, 3), (30, 6), (30, 12), (30, 6), (30, 2)],
)
RANGE_S, STEP_S = 285, 3
VARIABLES = operations.VARIABLES | {"__range": f"{RANGE_S}s"}

WIDTH, UNIT_HEIGHT, GAP = 1200, 32, 6
DPI = 100
COLORS = ("#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#96D98D",
          "#FFB357", "#CA95E5", "#3274D9", "#FADE2A")
NAMED = {"green": "#73BF69", "orange": "#FF9830", "red": "#F2495C", "blue": "#5794F2",
         "text": "#CCCCDC", "transparent": "#CCCCDC"}
PAGE, PANEL, LINE, TEXT, DIM = "#111217", "#181B1F", "#2C2F36", "#CCCCDC", "#8E8F99"
#: Approximate width of a character of the legend, in pixels.
CHARACTER = 5.3


def scaled(value: float, factor: int, names: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= factor and power < len(names) - 1:
        value, power = value / factor, power + 1
    return f"{value:.3g}{names[power]}"


def duration(value: float) -> str:
    for size, name in ((86400, " d"), (3600, " h"), (60, " min"), (1, " s"), (1e-3, " ms")):
        if abs(value) >= size:
            return f"{value / size:.3g}{name}"
    return f"{value * 1e6:.3g} µs" if value else "0 s"


def shown(value: float, unit: str) -> str:
    """A value as Grafana shows it in a unit."""
    if not math.isfinite(value):
        return "NaN"
    if unit == "s":
        return duration(value)
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit in ("bytes", "Bps"):
        text = scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))
        return text + ("/s" if unit == "Bps" else "")
    suffix = {"reqps": " req/s", "short": "", "none": ""}.get(unit, unit.removeprefix("suffix:"))
    return scaled(value, 1000, ("", " K", " M", " G")) + suffix


def legend_of(target: Json, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), target["legendFormat"])


def read_series(server: Prometheus, panel: Json) -> list[Series]:
    """Legends and points of all series of a panel."""
    series = []
    for target in panel["targets"]:
        query = dashboards.substituted(target["expr"], VARIABLES)
        result = (server.instant(query) if target["instant"]
                  else server.range(query, RANGE_S, STEP_S))
        for one in result:
            points = one.get("values") or [one["value"]]
            numbers = [(float(at), float(value)) for at, value in points]
            series.append((legend_of(target, one["metric"]), numbers))
    return series


class Page:
    """A dashboard's picture, with pixels counted from the upper left corner."""

    def __init__(self, dashboard: Json, events: list[tuple[float, str]], end: float) -> None:
        bottom = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"])
        self.height = 30 + bottom * UNIT_HEIGHT + GAP
        self.figure: Figure = plt.figure(
            figsize=(WIDTH / DPI, self.height / DPI), dpi=DPI, facecolor=PAGE
        )
        self.events, self.end = events, end
        self.write(12, 20, dashboard["title"], size=10, weight="bold")

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        options: Json = {"color": TEXT, "size": 8, "va": "baseline"} | style
        self.figure.text(x / WIDTH, 1 - y / self.height, text, **options)

    def box(self, x: float, y: float, w: float, h: float, **style: Any) -> None:
        place = (x / WIDTH, 1 - (y + h) / self.height)
        patch = Rectangle(place, w / WIDTH, h / self.height,
                              transform=self.figure.transFigure, **style)
        self.figure.add_artist(patch)

    def axes(self, x: float, y: float, w: float, h: float) -> Axes:
        area = (x / WIDTH, 1 - (y + h) / self.height, w / WIDTH, h / self.height)
        axes = self.figure.add_axes(area, facecolor=PANEL, zorder=1)
        axes.tick_params(colors=DIM, labelsize=6.5, length=0, pad=3)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def draw(self, panel: Json, series: list[Series]) -> None:
        at = panel["gridPos"]
        x, y = at["x"] * WIDTH / 24 + GAP / 2, 30 + at["y"] * UNIT_HEIGHT + GAP / 2
        w, h = at["w"] * WIDTH / 24 - GAP, at["h"] * UNIT_HEIGHT - GAP
        if panel["type"] == "row":
            self.write(x + 8, y + 18, panel["title"], size=9, weight="bold")
            return
        self.box(x, y, w, h, facecolor=PANEL, edgecolor=LINE, linewidth=0.7)
        self.write(x + 8, y + 16, panel["title"], weight="bold", size=7.5)
        drawers = {"stat": self.stat, "bargauge": self.bars, "heatmap": self.heatmap,
                   "timeseries": self.lines}
        drawers[panel["type"]](panel, series, (x, y, w, h))

    def stat(self, panel: Json, series: list[Series], at: Place) -> None:
        x, y, w, h = at
        defaults, named = panel["fieldConfig"]["defaults"], panel["options"]["textMode"] == "name"
        for number, (legend, points) in enumerate(series):
            value, cell = points[-1][1], w / len(series)
            middle = x + cell * (number + 0.5)
            text = legend if named else shown(value, defaults["unit"])
            passed = [step for step in defaults["thresholds"]["steps"]
                      if step["value"] is None or value >= step["value"]]
            size = min(17, cell / max(len(text), 1) * 1.05)
            self.write(middle, y + h * 0.66, text, size=size, weight="bold", ha="center",
                       color=NAMED[passed[-1]["color"]])
            if len(series) > 1 and not named:
                self.write(middle, y + h - 10, legend, size=7, ha="center", color=DIM)

    def bars(self, panel: Json, series: list[Series], at: Place) -> None:
        x, y, w, h = at
        unit, rows = panel["fieldConfig"]["defaults"]["unit"], len(series)
        largest = max(points[-1][1] for _, points in series) or 1
        pitch = min((h - 32) / rows, 26)
        for number, (legend, points) in enumerate(series):
            value, top = points[-1][1], y + 26 + number * pitch
            self.write(x + 82, top + pitch * 0.6, legend, size=7, ha="right")
            self.box(x + 88, top + 2, w - 140, pitch - 4, facecolor="#22252B")
            self.box(x + 88, top + 2, (w - 140) * value / largest, pitch - 4,
                     facecolor=NAMED["green"])
            text = shown(round(value), unit)
            self.write(x + w - 8, top + pitch * 0.6, text, size=7, ha="right",
                       color=NAMED["green"])

    def times(self, axes: Axes) -> None:
        start = self.end - RANGE_S
        axes.set_xlim(start, self.end)
        ticks = [start + RANGE_S * part / 4 for part in (0.5, 1.5, 2.5, 3.5)]
        axes.set_xticks(ticks, [time.strftime("%H:%M:%S", time.gmtime(at)) for at in ticks])
        for at, color in self.events:
            axes.axvline(at, color=NAMED[color], linewidth=0.8, linestyle=(0, (3, 2)))

    def legend(self, names: list[str], x: float, y: float, w: float) -> int:
        """Draws a legend upward from y, on as many lines as it needs; returns their number."""
        lines: list[list[tuple[float, int]]] = [[]]
        right = 0.0
        for number, name in enumerate(names):
            width = 22 + CHARACTER * len(name)
            if right + width > w and lines[-1]:
                lines.append([])
                right = 0
            lines[-1].append((right, number))
            right += width
        for row, line in enumerate(lines):
            base = y - 12 * (len(lines) - 1 - row)
            for offset, number in line:
                color = COLORS[number % len(COLORS)]
                self.box(x + offset, base - 4, 9, 2.5, facecolor=color)
                self.write(x + offset + 13, base, names[number], size=6.5, color=TEXT)
        return len(lines)

    def lines(self, panel: Json, series: list[Series], at: Place) -> None:
        x, y, w, h = at
        defaults = panel["fieldConfig"]["defaults"]
        custom, unit = defaults["custom"], defaults["unit"]
        rows = self.legend([name for name, _ in series], x + 12, y + h - 9, w - 20)
        axes = self.axes(x + 58, y + 26, w - 70, h - 52 - 12 * rows)
        stacked = custom["stacking"]["mode"] == "normal"
        base: dict[float, float] = {}
        for number, (_, points) in enumerate(series):
            color = COLORS[number % len(COLORS)]
            known = [(at, value) for at, value in points if math.isfinite(value)]
            times, values = [at for at, _ in known], [value for _, value in known]
            below = [base.get(at, 0.0) for at in times]
            if stacked:
                values = [low + value for low, value in zip(below, values, strict=True)]
                base.update(zip(times, values, strict=True))
            axes.plot(times, values, color=color, linewidth=1)
            floor = below if stacked else 0
            if custom["scaleDistribution"]["type"] != "log":
                axes.fill_between(times, floor, values, color=color, linewidth=0,
                                  alpha=custom["fillOpacity"] / 100)
        for step in defaults["thresholds"]["steps"]:
            if step["value"] is not None:
                axes.axhline(step["value"], color=NAMED[step["color"]], linewidth=0.9,
                             linestyle=(0, (5, 3)))
        self.scale(axes, defaults, custom, unit)

    def scale(self, axes: Axes, defaults: Json, custom: Json, unit: str) -> None:
        if custom["scaleDistribution"]["type"] == "log":
            axes.set_yscale("log")
        else:
            top = axes.get_ylim()[1]
            axes.set_ylim(defaults.get("min", min(0, axes.get_ylim()[0])),
                          defaults.get("max", top if top > 0.06 or unit in ("s",) else 1))
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.grid(axis="both", color=LINE, linewidth=0.6)
        self.times(axes)

    def heatmap(self, panel: Json, series: list[Series], at: Place) -> None:
        x, y, w, h = at
        bounds = sorted(series, key=lambda one: float(one[0]))
        times = sorted({at for _, points in bounds for at, _ in points})
        counts, below = [], dict.fromkeys(times, 0.0)
        for _, points in bounds:
            values = dict(points)
            upto = {at: values.get(at, 0.0) for at in times}
            counts.append([max(upto[at] - below[at], 0) for at in times])
            below = upto
        axes = self.axes(x + 58, y + 26, w - 70, h - 50)
        edges = [*times, times[-1] + STEP_S]
        shades = [[math.sqrt(count) if count > 1e-9 else math.nan for count in row]
                  for row in counts]
        axes.pcolormesh(edges, range(len(bounds) + 1), shades, cmap="Blues_r", vmin=-1)
        unit = panel["options"]["yAxis"]["unit"]
        names = [name if name == "+Inf" else shown(float(name), unit) for name, _ in bounds]
        every = max(1, len(names) // 7)
        axes.set_yticks(range(1, len(names) + 1)[::every], names[::every])
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        self.times(axes)

    def save(self, path: Path) -> None:
        self.figure.savefig(path, facecolor=PAGE, dpi=DPI)
        plt.close(self.figure)
        # Few colors are used, so that a palette takes a third of the bytes.
        Image.open(path).convert("RGB").quantize(200).save(path, optimize=True)


def events_of(server: Prometheus, dashboard: Json) -> list[tuple[float, str]]:
    """Beginnings of the dashboard's annotations, with their colors."""
    found = []
    for event in dashboard["annotations"]["list"]:
        query = dashboards.substituted(event["expr"], VARIABLES)
        for series in server.range(query, RANGE_S, STEP_S):
            found.append((float(series["values"][0][0]), event["iconColor"]))
    return found


def draw_all(server: Prometheus, out: Path) -> None:
    end = time.time()
    for name, dashboard in dashboards.read(ROOT / "grafana" / "dashboards").items():
        page = Page(dashboard, events_of(server, dashboard), end)
        for panel in dashboard["panels"]:
            series = read_series(server, panel) if panel["type"] != "row" else []
            if panel["type"] != "row" and not series:
                raise Failed(f"{name}, {panel['title']!r}: no data")
            page.draw(panel, series)
        path = out / f"dashboard-{name}.png"
        page.save(path)
        print(f"{path}: {path.stat().st_size // 1024} KiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candor", type=Path, required=True, help="the program to run")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    arguments = parser.parse_args()
    if not arguments.candor.is_file():
        parser.error(f"--candor: {arguments.candor} is no file")
    if not arguments.out.is_dir():
        parser.error(f"--out: {arguments.out} is no folder")
    with tempfile.TemporaryDirectory(prefix="candor-pictures-") as folder:
        candor = Candor(arguments.candor.resolve(), Path(folder))
        server = Prometheus(operations.DEPLOYED, Path(folder), candor.operations)
        try:
            with operations.under_load(candor, server, LOADS):
                draw_all(server, arguments.out)
        except Failed as error:
            print(f"tools/dashboard_pictures.py: {error}", file=sys.stderr)
            return 1
        finally:
            candor.stop()
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
