#!/usr/bin/env python3
"""Runs a server under load and Prometheus beside it, and checks all that reads its metrics.

    python tests/operations/prometheus.py --candor target/release/candor

Checked: metrics, configuration and rules (promtool), tests of rules, that each alert is explained
in docs/runbook.md and tested both ways, dashboards against their source and Grafana's types, and
that every query of the dashboards returns data. Exit status 1 if anything is wrong.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dashboards
import traffic
import yaml
from servers import Candor, Command, Failed, Prometheus, eventually, output, program

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "grafana"
RUNBOOK = ROOT / "docs" / "runbook.md"
Json = dict[str, Any]

#: Seconds of traffic and clients that send it, before and after the restart.
Load = list[tuple[float, int]]
LOADS: tuple[Load, Load] = ([(14, 5)], [(14, 5)])
#: The traffic that goes on during the checks ends by then in any case.
LONGEST_S = 120
#: Grafana's variables. The dashboards' own range is longer than the test.
VARIABLES = {
    "job": "candor", "instance": ".+", "__rate_interval": "15s", "__interval": "1s",
    "__range": "2m",
}
RANGE_S = 120
#: Of the week before, which no test can wait for: a second of it is written into Prometheus.
LAST_WEEK = {'job:candor_low_reward_answers:ratio_increase6h{job="candor"}': 0.25}
#: What a cycle leaves for the server; a cycle takes minutes, and tests of its own run it.
LAST_CYCLE = {"number": 3, "outcome": "promoted", "outcomes": {"promoted": 2, "rejected": 1}}
METRIC = re.compile(r"\b(?:candor|process)_[a-z0-9_]+")


@contextmanager
def under_load(
    candor: Candor, prometheus: Prometheus, loads: tuple[Load, Load]
) -> Iterator[traffic.Client]:
    """Starts all and sends traffic: a promotion, a restart, a shadow, and then goes on with it."""
    cycles = candor.home / "candor-data" / "cycles"
    cycles.mkdir(parents=True)
    now = int(time.time())
    last = {**LAST_CYCLE, "finished": now, "last_success": now - 3600}
    (cycles / "last.json").write_text(json.dumps(last))
    served = candor.models("register", "candor-mini")["id"]
    candidate = candor.models("register", "candor-mini", "--parent", served)["id"]
    prometheus.backfill(LAST_WEEK, 3600)

    candor.start()
    prometheus.start()
    eventually("a first scrape", lambda: bool(prometheus.instant("up == 1")))
    candor.models("promote", served)
    eventually("the promoted version is served", lambda: candor.serves(served))
    client = traffic.Client(candor.api, traffic.photographs(ROOT / "tests/fixtures/photos"))
    before, after = loads
    steps = 0
    for seconds, workers in before:
        steps = traffic.run(client, seconds, workers, steps)
    # Drift and calibration are measured at the start, from stored answers, then once a minute.
    candor.stop()
    candor.models("promote", candidate, "--shadow", "1.0")
    candor.start()
    for seconds, workers in after:
        steps = traffic.run(client, seconds, workers, steps)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as background:
        rest = background.submit(traffic.run, client, LONGEST_S, workers, steps, stop)
        try:
            eventually(
                "an answer is compared with the shadow's",
                lambda: bool(prometheus.instant("candor_shadow_comparisons_total > 0")),
            )
            yield client
        finally:
            stop.set()
            rest.result()


def has_number(series: Json) -> bool:
    values = series.get("values") or [series["value"]]
    return any(math.isfinite(float(value)) for _, value in values)


def without_data(prometheus: Prometheus, query: dashboards.Query) -> str | None:
    """What is wrong with the answer to a dashboard's query."""
    expression = dashboards.substituted(query.expression, VARIABLES)
    if "$" in expression:
        return f"{query}: a variable is left in {expression}"
    try:
        result = (prometheus.instant(expression) if query.instant
                  else prometheus.range(expression, RANGE_S))
    except Failed as error:
        return f"{query}: {error}"
    if not any(has_number(series) for series in result):
        return f"{query}: no data from {expression}"
    return None


def names_in(text: str) -> set[str]:
    """Names of metrics in queries, without the suffixes of histograms' series."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in METRIC.findall(text)}


def unknown_names(metrics: str, texts: dict[str, str]) -> list[str]:
    """Metrics that rules and documents name and the server does not have."""
    # Those with a colon are recorded; their names are checked by the queries themselves.
    known = set(re.findall(r"^# TYPE (\S+)", metrics, re.MULTILINE))
    return [f"{where}: the server has no metric {name}"
            for where, text in texts.items()
            for name in sorted(names_in(re.sub(r"\b\w+:[\w:]+", "", text)) - known)]


def sections(document: str) -> dict[str, str]:
    """Second-level sections of a document by the anchor of their heading."""
    parts = re.split(r"^## (.+)\n", document, flags=re.MULTILINE)
    anchors = (re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in parts[1::2])
    return dict(zip(anchors, parts[2::2], strict=True))


def promql_in(text: str) -> list[str]:
    return re.findall(r"^```promql\n(.+?)^```", text, re.MULTILINE | re.DOTALL)


def unexplained(rules: list[Json], runbook: str) -> list[str]:
    """Alerts without what the person who is woken needs."""
    known, problems = sections(runbook), []
    for rule in rules:
        name, notes = rule["name"], rule["annotations"]
        missing = {"summary", "description"} - notes.keys()
        problems += [f"{name}: no {key}" for key in sorted(missing)]
        if rule["labels"].get("severity") not in ("critical", "warning"):
            problems.append(f"{name}: severity must be critical or warning")
        document, _, anchor = notes.get("runbook_url", "").partition("#")
        if document != "docs/runbook.md" or anchor not in known:
            problems.append(f"{name}: runbook_url names no section of docs/runbook.md")
        elif not promql_in(known[anchor]):
            problems.append(f"docs/runbook.md, {anchor}: no query to confirm the alert with")
    return problems


def untested(rules: list[Json]) -> list[str]:
    """Alerts that no test of rules makes fire, or that none requires to be silent."""
    expected: dict[str, set[bool]] = {rule["name"]: set() for rule in rules}
    for path in sorted(DEPLOYED.glob("tests/*.yml")):
        for test in read_yaml(path)["tests"]:
            for case in test.get("alert_rule_test", []):
                expected.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    return [f"{name}: tests must require it to fire once and to be silent once"
            for name, seen in expected.items() if seen != {True, False}]


def rules_in_force(prometheus: Prometheus) -> tuple[list[Json], list[str]]:
    """Alerting rules as Prometheus has them, and errors of its evaluations."""
    rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
    problems = [f"rule {rule['name']}: {rule['lastError']}" for rule in rules
                if rule["health"] == "err"]
    return [rule for rule in rules if rule["type"] == "alerting"], problems


def read_yaml(path: Path) -> Json:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def provisioning() -> list[str]:
    """What is wrong with Grafana's provisioning files."""
    source, = read_yaml(GRAFANA / "provisioning/datasources/prometheus.yaml")["datasources"]
    provider, = read_yaml(GRAFANA / "provisioning/dashboards/candor.yaml")["providers"]
    interval = read_yaml(DEPLOYED / "prometheus.yml")["global"]["scrape_interval"]
    problems = []
    if source["type"] != "prometheus" or not source["isDefault"]:
        problems.append("provisioning: the data source must be Prometheus, and the default")
    if source["jsonData"]["timeInterval"] != interval:
        problems.append(f"provisioning: timeInterval must be the scrape_interval, {interval}")
    if provider["type"] != "file" or not provider["options"]["path"].startswith("/"):
        problems.append("provisioning: the provider must read files at an absolute path")
    return problems


def static_checks() -> Iterator[str]:
    """All that needs no server."""
    promtool = program("promtool")
    rules = sorted(DEPLOYED.glob("rules/*.yml"))
    tests = sorted(DEPLOYED.glob("tests/*.yml"))
    commands: list[Command] = [
        [promtool, "check", "config", DEPLOYED / "prometheus.yml"],
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", *rules],
        [promtool, "test", "rules", *tests],
        [sys.executable, GRAFANA / "build.py", "--check"],
    ]
    for command in commands:
        try:
            output(command)
        except Failed as error:
            yield str(error)
    yield from provisioning()
    for name, dashboard in dashboards.read(GRAFANA / "dashboards").items():
        yield from dashboards.incomplete(name, dashboard)
        yield from dashboards.overlapping(name, dashboard)
        yield from dashboards.against_types(name, dashboard)


def clean_metrics(metrics: str) -> list[str]:
    """What promtool says of the metrics; it names problems even where it exits with 0."""
    command = [program("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=metrics, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip().splitlines()
    failed = [f"exit status {done.returncode}"] if done.returncode and not said else []
    return [f"promtool check metrics: {line}" for line in [*said, *failed]]


def live_checks(candor: Candor, prometheus: Prometheus) -> tuple[list[str], str]:
    """All that needs a server under load; problems, and a line about what was looked at."""
    metrics = candor.metrics()
    alerts, problems = rules_in_force(prometheus)
    runbook = RUNBOOK.read_text(encoding="utf-8")
    problems += clean_metrics(metrics) + unexplained(alerts, runbook) + untested(alerts)
    rules = {path.name: path.read_text() for path in sorted(DEPLOYED.glob("rules/*.yml"))}
    problems += unknown_names(metrics, {**rules, "docs/runbook.md": runbook})
    explained = promql_in(runbook)
    for query in explained:
        try:
            prometheus.instant(query)
        except Failed as error:
            problems.append(f"docs/runbook.md: {error} in {query}")
    shown = dashboards.read(GRAFANA / "dashboards")
    queries = [query for name in shown for query in dashboards.queries(name, shown[name])]
    problems += filter(None, (without_data(prometheus, query) for query in queries))
    looked_at = (f"{len(queries)} queries of {len(shown)} dashboards, {len(alerts)} alerts, "
                 f"{len(explained)} queries of the runbook")
    return problems, looked_at


def check(binary: Path, home: Path) -> tuple[list[str], str]:
    candor = Candor(binary, home)
    prometheus = Prometheus(DEPLOYED, home, candor.operations)
    try:
        with ThreadPoolExecutor(1) as background:
            checked = background.submit(lambda: list(static_checks()))
            with under_load(candor, prometheus, LOADS) as client:
                problems, looked_at = live_checks(candor, prometheus)
            return [*traffic.missing(client), *problems, *checked.result()], looked_at
    finally:
        candor.stop()
        prometheus.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candor", type=Path, required=True, help="the program to test")
    binary = parser.parse_args().candor.resolve()
    if not binary.is_file():
        parser.error(f"--candor: {binary} is no file")
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="candor-operations-") as home:
            problems, looked_at = check(binary, Path(home))
    except Failed as error:
        problems, looked_at = [str(error)], "stopped early"
    for problem in problems:
        print(f"- {problem}")
    print(f"{len(problems)} problems; {looked_at}; {time.monotonic() - began:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
