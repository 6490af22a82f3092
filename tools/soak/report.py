"""What a soak found: figures, a verdict, and a report with plots."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import AFTER_S, Fault
from traffic import Outcome
from watch import Sample

# Share of the time after which a process counts as warm.
WARM_UP = 0.25
# Growth after the warm-up that is none: of memory in MiB and as a share, of descriptors (each open
# connection is one) and of threads (the database driver's and the runtime's come and go).
MEMORY_MIB, MEMORY_SHARE, DESCRIPTORS, THREADS = 24.0, 0.10, 24, 6
# Least samples of a process, to say how much it grew.
FEWEST = 20
# Share of the time that a process has to run for its growth to count: caches fill first.
LONG_LIFE = 0.5


@dataclass
class Soak:
    """Everything that was seen, with times from the beginning."""

    begun: float
    seconds: float
    capacity: float
    rate: float
    late: int
    outcomes: list[Outcome]
    samples: list[Sample]
    faults: list[Fault]
    # Times, and bytes of receipts with their photographs.
    stored: list[tuple[float, int]]
    # Other findings, such as lost records.
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def percentile(values: Iterable[float], share: float) -> float:
    """A percentile; `nan` of nothing."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def explanation(outcome: Outcome, faults: list[Fault]) -> str | None:
    """The fault that explains a bad outcome."""
    ended = outcome.begun + outcome.seconds
    for fault in faults:
        over = fault.recovered + AFTER_S
        during = ended >= fault.begun and outcome.begun <= over
        about = outcome.about is not None and fault.begun <= outcome.about <= over
        if (during or about) and fault.explains(outcome.kind, outcome.status):
            return fault.name
    return None


def errors(soak: Soak) -> list[dict[str, Any]]:
    """Bad outcomes by kind, status and the fault that explains them."""
    counted = Counter(
        (outcome.kind, outcome.status, outcome.code, explanation(outcome, soak.faults))
        for outcome in soak.outcomes
        if not outcome.good
    )
    return [
        {"kind": kind, "status": status, "code": code, "explained_by": fault, "requests": number}
        for (kind, status, code, fault), number in counted.most_common()
    ]


def growth(soak: Soak) -> list[dict[str, Any]]:
    """Memory, descriptors and threads of processes in the first and last fifth after warm-up."""
    found = []
    for process in dict.fromkeys(sample.process for sample in soak.samples):
        life = [sample for sample in soak.samples if sample.process == process]
        warm = life[int(len(life) * WARM_UP) :]
        fifth = len(warm) // 5
        if len(warm) < FEWEST:
            continue
        row: dict[str, Any] = {
            "replica": life[0].replica,
            "seconds": round(life[-1].at - life[0].at),
        }
        for name in ("memory_mib", "descriptors", "threads"):
            values = [float(getattr(sample, name)) for sample in warm]
            first, last = statistics.median(values[:fifth]), statistics.median(values[-fifth:])
            row[name] = {
                "first": round(first, 1),
                "last": round(last, 1),
                "most": round(max(values), 1),
            }
        row["grows"] = grows(row) if row["seconds"] > LONG_LIFE * soak.seconds else []
        found.append(row)
    return found


def grows(row: dict[str, Any]) -> list[str]:
    """What grows, of a row of `growth`."""
    bounds = {
        "memory_mib": max(MEMORY_MIB, row["memory_mib"]["first"] * MEMORY_SHARE),
        "descriptors": DESCRIPTORS,
        "threads": THREADS,
    }
    return [
        name for name, bound in bounds.items() if row[name]["last"] - row[name]["first"] > bound
    ]


def latencies(soak: Soak) -> list[dict[str, Any]]:
    """Latencies of good outcomes by kind: calm, and while a fault lasted."""
    rows = []
    for kind in dict.fromkeys(outcome.kind for outcome in soak.outcomes):
        good = [outcome for outcome in soak.outcomes if outcome.kind == kind and outcome.good]
        row: dict[str, Any] = {"kind": kind, "requests": len(good)}
        for name, chosen in (("calm", False), ("fault", True)):
            times = [o.seconds * 1000 for o in good if in_fault(o.begun, soak.faults) == chosen]
            row[f"{name}_p50_ms"] = round(percentile(times, 0.5), 1) if times else None
            row[f"{name}_p99_ms"] = round(percentile(times, 0.99), 1) if times else None
        rows.append(row)
    return rows


def in_fault(at: float, faults: list[Fault]) -> bool:
    """Whether a fault lasted at that time."""
    return any(fault.begun <= at <= fault.recovered for fault in faults)


def summarize(soak: Soak) -> dict[str, Any]:
    """All figures, and the verdict."""
    bad, processes = errors(soak), growth(soak)
    unexplained = sum(row["requests"] for row in bad if row["explained_by"] is None)
    wrong = list(soak.wrong)
    wrong += [f"{unexplained} errors that no fault explains"] if unexplained else []
    wrong += [
        f"{row['replica']}: {', '.join(row['grows'])} grow" for row in processes if row["grows"]
    ]
    wrong += [] if processes else ["no process ran long enough to see growth"]
    return {
        "verdict": "passed" if not wrong else "failed",
        "wrong": wrong,
        "seconds": round(soak.seconds),
        "capacity_requests_per_s": round(soak.capacity, 1),
        "rate_requests_per_s": round(soak.rate, 1),
        "requests": len(soak.outcomes),
        "not_sent": soak.late,
        "errors": bad,
        "latencies": latencies(soak),
        "processes": processes,
        "faults": [
            {
                "name": fault.name,
                "at_s": round(fault.begun - soak.begun, 1),
                "lasted_s": round(fault.ended - fault.begun, 1),
                "recovered_after_s": round(fault.recovered - fault.ended, 1),
            }
            for fault in soak.faults
        ],
        **soak.figures,
    }


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """A Markdown table; `columns` are headings by key."""
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ["–" if row.get(key) in (None, "") else str(row[key]) for key in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(summary: dict[str, Any], command: str) -> str:
    """The readable report."""
    shown = [
        {
            **row,
            **{
                name: "{first} → {last} (most {most})".format(**row[name])
                for name in ("memory_mib", "descriptors", "threads")
            },
        }
        for row in summary["processes"]
    ]
    head = [
        "# Soak",
        "",
        f"`{command}`: **{summary['verdict']}**",
        "",
        *[f"- {wrong}" for wrong in summary["wrong"]],
        f"- {summary['requests']} requests in {summary['seconds']} s, "
        f"{summary['rate_requests_per_s']} a second: 80 % of {summary['capacity_requests_per_s']}; "
        f"{summary['not_sent']} could not be sent in time",
        f"- {summary['acknowledged_records']} records acknowledged, {summary['lost_records']} lost",
        f"- receipts with their photographs: {summary['receipts_most_mib']} MiB at most, "
        f"{summary['receipts_last_mib']} in the end (bound: {summary['receipts_bound_mib']})",
        "",
    ]
    parts = {
        "Faults": (
            summary["faults"],
            {
                "name": "fault",
                "at_s": "at, s",
                "lasted_s": "lasted, s",
                "recovered_after_s": "recovered after, s",
            },
        ),
        "Errors": (
            summary["errors"],
            {
                "kind": "kind",
                "status": "status (0: broken off)",
                "code": "code",
                "requests": "requests",
                "explained_by": "explained by",
            },
        ),
        "Latencies, ms": (
            summary["latencies"],
            {
                "kind": "kind",
                "requests": "requests",
                "calm_p50_ms": "p50",
                "calm_p99_ms": "p99",
                "fault_p50_ms": "p50 in faults",
                "fault_p99_ms": "p99 in faults",
            },
        ),
        "Processes, first and last fifth after the warm-up": (
            shown,
            {
                "replica": "replica",
                "seconds": "ran, s",
                "memory_mib": "memory, MiB",
                "descriptors": "descriptors",
                "threads": "threads",
            },
        ),
    }
    for title, (rows, columns) in parts.items():
        head += [f"## {title}", "", *(table(rows, columns) if rows else ["none"]), ""]
    head += ["## Over time", "", *[f"![{name}]({name}.svg)" for name in PLOTS], ""]
    return "\n".join(head)


Series = dict[str, list[tuple[float, float]]]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 240, 56, 34, 30
COLORS = ("#1b6ca8", "#c2571a", "#3c8d40", "#7a4fa3", "#8a8a1f", "#b03060")


def label(value: float) -> str:
    """The number at a line of a plot."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def svg(title: str, series: Series, faults: list[tuple[str, float, float]]) -> str:
    """A line chart over seconds, with the faults as gray bands."""
    points = [point for line in series.values() for point in line]
    longest = max((x for x, _ in points), default=1.0) or 1.0
    highest = max((y for _, y in points), default=1.0) * 1.1 or 1.0

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * min(value, longest) / longest

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / highest

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="14" font-size="13">{title}</text>',
    ]
    for name, begun, ended in faults:
        width = max(x(ended) - x(begun), 1)
        out.append(
            f'<rect x="{x(begun):.1f}" y="{TOP}" width="{width:.1f}" '
            f'height="{HEIGHT - BOTTOM - TOP}" fill="#ddd"><title>{name}</title></rect>'
        )
    for part in range(5):
        height, time = highest * part / 4, longest * part / 4
        out.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(height):.1f}" y2="{y(height):.1f}" '
            f'stroke="#ccc"/><text x="{LEFT - 4}" y="{y(height) + 4:.1f}" text-anchor="end">'
            f'{label(height)}</text><text x="{x(time):.1f}" y="{HEIGHT - 18}" text-anchor="middle">'
            f"{time:.0f} s</text>"
        )
    for number, (name, line) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        drawn = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        out.append(f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        place = LEFT + number * (WIDTH - LEFT) // max(len(series), 4)
        out.append(f'<text x="{place}" y="{HEIGHT - 4}" fill="{color}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])


def of_samples(name: str) -> Callable[[Soak], Series]:
    """Lines of a figure of the processes, one for each replica."""

    def lines(soak: Soak) -> Series:
        found: Series = {}
        for sample in soak.samples:
            point = (sample.at - soak.begun, float(getattr(sample, name)))
            found.setdefault(sample.replica, []).append(point)
        return found

    return lines


def slices(soak: Soak) -> list[tuple[float, list[Outcome]]]:
    """Outcomes in sixty equal slices of the time."""
    width = soak.seconds / 60
    found: list[tuple[float, list[Outcome]]] = [(width * (n + 0.5), []) for n in range(60)]
    for outcome in soak.outcomes:
        place = int((outcome.begun - soak.begun) / width)
        if 0 <= place < 60:
            found[place][1].append(outcome)
    return found


def latency_lines(soak: Soak) -> Series:
    """Median and 99th percentile of answers."""
    kinds = ("known photograph", "new photograph", "stream")
    found: Series = {}
    for at, outcomes in slices(soak):
        times = [o.seconds * 1000 for o in outcomes if o.good and o.kind in kinds]
        for name, share in (("median", 0.5), ("99th percentile", 0.99)):
            if times:
                found.setdefault(name, []).append((at, percentile(times, share)))
    return found


def error_lines(soak: Soak) -> Series:
    """Errors by status."""
    statuses = sorted({outcome.status for outcome in soak.outcomes if not outcome.good})
    found: Series = {}
    for at, outcomes in slices(soak):
        for status in statuses:
            number = sum(not o.good and o.status == status for o in outcomes)
            found.setdefault(str(status or "broken off"), []).append((at, number))
    return found


def stored_lines(soak: Soak) -> Series:
    """Receipts with their photographs."""
    return {"in the store": [(at - soak.begun, size / 2**20) for at, size in soak.stored]}


PLOTS: dict[str, tuple[str, Callable[[Soak], Series]]] = {
    "memory": ("Resident memory, MiB", of_samples("memory_mib")),
    "descriptors": ("File descriptors", of_samples("descriptors")),
    "threads": ("Threads", of_samples("threads")),
    "stored": ("Receipts and their photographs, MiB", stored_lines),
    "latency": ("Latency of answers, ms", latency_lines),
    "errors": ("Errors by status, in each sixtieth of the time", error_lines),
}


def write(soak: Soak, folder: Path, command: str) -> dict[str, Any]:
    """Writes report.json, report.md and the plots; returns the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {"command": command, **summarize(soak)}
    (folder / "report.json").write_text(json.dumps(summary, indent=1) + "\n")
    (folder / "report.md").write_text(markdown(summary, command))
    bands = [(f.name, f.begun - soak.begun, f.recovered - soak.begun) for f in soak.faults]
    for name, (title, lines) in PLOTS.items():
        (folder / f"{name}.svg").write_text(svg(title, lines(soak), bands))
    return summary
