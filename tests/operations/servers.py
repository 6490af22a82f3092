"""A real Candor and a real Prometheus that scrapes it, on free ports, in a folder of their own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Command = Sequence[str | Path]

#: Small enough that a few clients fill the batch; every answer of the queue needs two annotators.
SETTINGS = {
    "CANDOR_ENGINE__MAX_BATCH": "2",
    "CANDOR_QUEUE__OVERLAP_SHARE": "1.0",
    "CANDOR_LOG__LEVEL": "warn",
}
STARTS_WITHIN_S = 60
WEEK_S = 7 * 86400


class Failed(Exception):
    """Something that had to work did not."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(what: str, holds: Callable[[], bool], within_s: float = STARTS_WITHIN_S) -> None:
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            raise Failed(f"{what}: not within {within_s:.0f} s")
        time.sleep(0.1)


def output(command: Command, text: str | None = None, cwd: Path | None = None) -> str:
    """Runs a program; its output is part of the error if it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        shown = " ".join(str(part) for part in command)
        raise Failed(f"{shown}: exit status {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise Failed(f"{name} is not installed (Debian: apt-get install prometheus)")
    return found


class Process:
    """A program in the background, whose log is shown if it does not start."""

    def __init__(self, name: str, command: Command, home: Path, **settings: str) -> None:
        self.name, self.log = name, home / f"{name}.log"
        with self.log.open("a") as log:
            self.child = subprocess.Popen(
                command, cwd=home, env={**os.environ, **settings}, stdout=log, stderr=log
            )

    def answers(self, url: str) -> None:
        def ready() -> bool:
            if self.child.poll() is not None:
                raise Failed(f"{self.name} has ended:\n{self.log.read_text()}")
            try:
                return urllib.request.urlopen(url, timeout=5).status == 200
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False

        eventually(f"{self.name} at {url}", ready)

    def stop(self) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(30)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


class Candor:
    """`candor serve` with health and metrics on a listener of their own."""

    def __init__(self, binary: Path, home: Path) -> None:
        self.binary, self.home = binary, home
        self.api, self.operations = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.process: Process | None = None

    def start(self) -> None:
        command: Command = [self.binary, "serve", "--listen", self.api]
        settings = {**SETTINGS, "CANDOR_SERVER__OPERATIONS_LISTEN": self.operations}
        self.process = Process("candor", command, self.home, **settings)
        self.process.answers(f"http://{self.operations}/health/ready")

    def stop(self) -> None:
        if self.process:
            self.process.stop()

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.operations}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def models(self, *arguments: str) -> Json:
        command: Command = [self.binary, "models", *arguments, "--json"]
        return json.loads(output(command, cwd=self.home))

    def serves(self, version: str) -> bool:
        return f'candor_model_info{{model="candor-mini",version="{version}"}} 1' in self.metrics()


class Prometheus:
    """Prometheus with the configuration and rules of `deploy/prometheus`, every second."""

    def __init__(self, deployed: Path, home: Path, target: str) -> None:
        self.deployed, self.home = deployed, home
        self.at = f"127.0.0.1:{free_port()}"
        self.config = home / "prometheus.yml"
        self.config.write_text(self.configuration(target))
        self.process: Process | None = None

    def configuration(self, target: str) -> str:
        text = (self.deployed / "prometheus.yml").read_text()
        replaced = {
            "scrape_interval: 15s": "scrape_interval: 1s",
            "evaluation_interval: 15s": "evaluation_interval: 1s",
            "- rules/*.yml": f"- {self.deployed.resolve()}/rules/*.yml",
            "candor:9090": target,
        }
        for old, new in replaced.items():
            if old not in text:
                raise Failed(f"prometheus.yml has no {old!r}, which this test replaces")
            text = text.replace(old, new)
        return text

    def backfill(self, series: dict[str, float], seconds: int) -> None:
        """Writes constant series for some seconds of a week ago, and the minutes after them."""
        first = int(time.time()) - WEEK_S - seconds
        lines = []
        for name, value in series.items():
            lines.append(f"# TYPE {name.partition('{')[0]} gauge")
            lines += [f"{name} {value} {at}" for at in range(first, first + 2 * seconds, 15)]
        history = self.home / "history.om"
        history.write_text("\n".join([*lines, "# EOF", ""]))
        create = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics"]
        output([*create, history, self.home / "tsdb"])

    def start(self) -> None:
        command = [
            program("prometheus"), f"--config.file={self.config}",
            f"--web.listen-address={self.at}", f"--storage.tsdb.path={self.home / 'tsdb'}",
            "--storage.tsdb.retention.time=30d",
        ]
        self.process = Process("prometheus", command, self.home)
        self.process.answers(f"http://{self.at}/-/ready")

    def stop(self) -> None:
        if self.process:
            self.process.stop()

    def api(self, path: str, **parameters: str) -> Any:
        """Data of an answer of the HTTP API."""
        url = f"http://{self.at}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            raise Failed(json.loads(text)["error"] if text.startswith("{") else text) from error

    def instant(self, query: str) -> list[Json]:
        return self.api("query", query=query)["result"]

    def range(self, query: str, seconds: float, step: float = 1) -> list[Json]:
        now = time.time()
        times = {"start": f"{now - seconds:.3f}", "end": f"{now:.3f}", "step": f"{step}"}
        return self.api("query_range", query=query, **times)["result"]
