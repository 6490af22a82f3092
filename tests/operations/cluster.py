"""Candor processes behind HAProxy, with one PostgreSQL and one S3 store: all real, on loopback."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from client import Address, Reply, send

ROOT = Path(__file__).resolve().parents[2]
HAPROXY_CFG = ROOT / "deploy/haproxy.cfg"
BUCKET = "photos"
KEYS = {name: f"{name}-0123456789abcdef" for name in ("app", "ann", "ben", "limited", "admin")}
SCOPES = {
    "app": ["complete", "score", "feedback:write", "feedback:read"],
    "ann": ["annotate", "feedback:write"],
    "ben": ["annotate", "feedback:write"],
    "limited": ["complete"],
    "admin": ["admin"],
}
# Longer than the balancer takes to notice that a replica is not ready.
SHUTDOWN_DELAY_S = 4
# Of the key `limited`.
REQUESTS_PER_MINUTE = 12


class Missing(Exception):
    """A program or package that is not installed."""


def end_on_signals() -> None:
    """Lets signals that end this process end the processes that it started, too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, condition: Callable[[], bool], seconds: float = 60) -> float:
    """Waits for a state and returns the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - begun


def accepts(port: int) -> bool:
    """Whether something listens at a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Ends a process and returns its status."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


class Postgres:
    """A PostgreSQL server with a data folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.data, self.port = folder / "postgres", free_port()
        self.log = folder / "postgres.log"
        self.programs = self._programs()
        self.data.mkdir()
        if os.geteuid() == 0:
            # PostgreSQL does not run as root; Debian's package has a user for it.
            shutil.chown(self.data, "postgres")
        command = ["initdb", "--auth=trust", "--username=candor", "--encoding=UTF8", "--pgdata"]
        made = subprocess.run(self._as_user(*command, str(self.data)), capture_output=True)
        if made.returncode != 0:
            raise RuntimeError(made.stderr.decode())
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
            self.query("CREATE DATABASE candor", database="postgres")
        except BaseException:
            self.stop()
            raise

    @staticmethod
    def _programs() -> Path:
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        for folder in [*map(Path, os.environ["PATH"].split(":")), *versions]:
            if all((folder / name).exists() for name in ("initdb", "postgres", "psql")):
                return folder
        raise Missing("PostgreSQL (Debian: postgresql)")

    def _as_user(self, program: str, *arguments: str) -> list[str]:
        command = [str(self.programs / program), *arguments]
        if os.geteuid() != 0:
            return command
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command]

    def start(self) -> None:
        """Starts the server and waits until it takes connections."""
        # A small log fits on a small disk.
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "max_wal_size=64MB"]
        options += ["-c", "min_wal_size=32MB", "-k", "", "-p", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._as_user("postgres", *options, "-D", str(self.data)),
                cwd=self.data,
                stdout=log,
                stderr=log,
            )
        until(
            "PostgreSQL takes connections",
            lambda: self.try_query("SELECT 1", "postgres") is not None,
        )

    def stop(self) -> None:
        """Ends the server and all connections at once, as a crash does."""
        if self.process is not None:
            stop(self.process, signal.SIGQUIT)

    def hang(self, hanging: bool) -> None:
        """Stops all its processes from running, or lets them run again."""
        assert self.process is not None
        number = signal.SIGSTOP if hanging else signal.SIGCONT
        for process in [self.process.pid, *children(self.process.pid)]:
            os.kill(process, number)

    def url(self) -> str:
        """URL of the database."""
        return f"postgres://candor@127.0.0.1:{self.port}/candor"

    def try_query(self, sql: str, database: str = "candor") -> str | None:
        """The same as `query`; `None` if it fails."""
        url = f"postgres://candor@127.0.0.1:{self.port}/{database}"
        command = [str(self.programs / "psql"), url, "-XAtc", sql]
        asked = subprocess.run(command, capture_output=True, text=True)
        return asked.stdout.strip() if asked.returncode == 0 else None

    def query(self, sql: str, database: str = "candor") -> str:
        """What a query returns, as psql prints it."""
        answer = self.try_query(sql, database)
        if answer is None:
            raise RuntimeError(f"PostgreSQL refuses {sql!r}; its log is {self.log}")
        return answer


def children(process: int) -> list[int]:
    """Ids of a process's children."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in listed.split()]


class Relay:
    """A TCP relay in front of a server whose data would not survive its end."""

    def __init__(self, target: int) -> None:
        self.port, self.target = free_port(), target
        self.listener: socket.socket | None = None
        self.open: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.hanging = threading.Event()
        self.running = threading.Event()
        self.running.set()
        self.restore()

    def restore(self) -> None:
        """Accepts connections again."""
        self.hanging.clear()
        self.running.set()
        if self.listener is None:
            self.listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
            threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuses connections, and closes the open ones."""
        if self.listener is not None:
            # Without a shutdown, the thread that accepts keeps the port open.
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
        with self.lock:
            for end in self.open:
                end.close() if end.fileno() < 0 else end.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Accepts connections, and passes nothing on."""
        self.running.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            with self.lock:
                self.open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                self.running.wait()
                sink.sendall(piece)
        except OSError:
            pass
        with self.lock:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            source.close()
            self.open.discard(source)


class ObjectStore:
    """The S3 server of the package moto, behind a relay that can be cut."""

    def __init__(self, folder: Path, python: str) -> None:
        found = subprocess.run([python, "-c", "import moto.server"], capture_output=True)
        if found.returncode != 0:
            raise Missing(f"the package moto for {python} (tests/stores/requirements.txt)")
        port = free_port()
        with (folder / "moto.log").open("wb") as log:
            self.process = subprocess.Popen(
                [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                stdout=log,
                stderr=log,
            )
        try:
            until("the S3 server listens", lambda: accepts(port))
        except BaseException:
            stop(self.process, signal.SIGKILL)
            raise
        self.address: Address = ("127.0.0.1", port)
        self.relay = Relay(port)
        made = send(self.address, "PUT", f"/{BUCKET}")
        if made.status != 200:
            raise RuntimeError(f"the S3 server makes no bucket: {made}")

    def environment(self) -> dict[str, str]:
        """Variables that lead Candor here."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.relay.port}",
            "AWS_ALLOW_HTTP": "true",
        }

    def names(self) -> set[str]:
        """SHA-256 of all photographs."""
        found: set[str] = set()
        after = ""
        while True:
            path = f"/{BUCKET}?list-type=2&max-keys=1000&start-after={after}"
            text = send(self.address, "GET", path).body.decode()
            keys = [part.split("</Key>")[0] for part in text.split("<Key>")[1:]]
            found |= {key.rsplit("/", 1)[1] for key in keys}
            if not keys or "<IsTruncated>true" not in text:
                return found
            after = keys[-1]


class Replica:
    """A Candor process."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.number = cluster, number
        self.name = f"candor-{number}"
        self.folder = cluster.folder / self.name
        self.folder.mkdir()
        self.address: Address = ("127.0.0.1", free_port())
        self.operations: Address = ("127.0.0.1", free_port())
        self.process: subprocess.Popen[bytes] | None = None
        (self.folder / "candor.toml").write_text(self._configuration())

    def _configuration(self) -> str:
        cluster = self.cluster
        keys = "".join(
            f'\n[[keys]]\nname = "{name}"\nowner = "app"\nscopes = {SCOPES[name]}\n'
            f'key_sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
            + (f"requests_per_minute = {REQUESTS_PER_MINUTE}\n" if name == "limited" else "")
            for name, key in KEYS.items()
        )
        return f"""
[server]
operations_listen = "127.0.0.1:{self.operations[1]}"
shutdown_delay_s = {SHUTDOWN_DELAY_S}
[model]
threads = 1
[registry]
dir = "{cluster.folder / "registry"}"
[feedback]
store = "{cluster.postgres.url()}"
images = "s3://{BUCKET}/of/candor"
[receipts]
retention = "{cluster.retention}"
max_bytes = {cluster.receipt_bytes}
[queue]
unassisted_share = 0.0
overlap_share = 0.0
{keys}"""

    def start(self) -> None:
        """Starts the process; `ready` says when it answers."""
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.cluster.program, "serve", "--listen", f"127.0.0.1:{self.address[1]}"]
                + ["--device", "cpu", "--config", "candor.toml"],
                cwd=self.folder,
                env={**environment, **self.cluster.objects.environment()},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def ask(
        self, method: str, path: str, body: object = None, key: str = "app", **more: object
    ) -> Reply:
        """Sends a request to this replica, past the balancer."""
        return send(self.address, method, path, body, KEYS[key], **more)  # type: ignore[arg-type]

    def ready(self) -> bool:
        """Whether it is ready; an error if it has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} has ended; the end of its log:\n{self.log()[-2000:]}")
        return send(self.operations, "GET", "/health/ready", timeout=5).status == 200

    def log(self) -> str:
        """What it logged."""
        return (self.folder / "log").read_text(errors="replace")

    def metric(self, name: str) -> float:
        """A metric without labels."""
        text = send(self.operations, "GET", "/metrics", timeout=5).body.decode()
        lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[1]) if lines else float("nan")


class Balancer:
    """HAProxy with the configuration of `deploy/`."""

    def __init__(self, cluster: Cluster) -> None:
        program = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
        if program is None:
            raise Missing("HAProxy (Debian: haproxy)")
        self.address: Address = ("127.0.0.1", free_port())
        self.stats: Address = ("127.0.0.1", free_port())
        self.log_file = cluster.folder / "haproxy.log"
        servers = {
            f"CANDOR_{replica.number}": f"127.0.0.1:{replica.address[1]}"
            for replica in cluster.replicas
        }
        environment = {
            **servers,
            "PATH": "/usr/bin:/bin",
            "CANDOR_BIND": f"127.0.0.1:{self.address[1]}",
            "CANDOR_STATS": f"127.0.0.1:{self.stats[1]}",
        }
        with self.log_file.open("wb") as log:
            command = [program, "-db", "-f", str(HAPROXY_CFG)]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        until("HAProxy listens", lambda: accepts(self.address[1]) and accepts(self.stats[1]))

    def up(self) -> set[str]:
        """Names of the servers that it sends requests to."""
        table = send(self.stats, "GET", "/;csv").body.decode().removeprefix("# ")
        rows = csv.DictReader(io.StringIO(table))
        return {
            row["svname"]
            for row in rows
            if row["pxname"] == "candor" and row["svname"] != "BACKEND" and row["status"] == "UP"
        }

    def served(self) -> dict[str, str]:
        """Server of each request that ended, by request id."""
        found = {}
        for line in self.log_file.read_text(errors="replace").splitlines():
            fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
            if {"id", "server"} <= fields.keys():
                found[fields["id"]] = fields["server"]
        return found


class Cluster:
    """All of it, in a temporary folder."""

    def __init__(
        self,
        program: Path,
        python: str = sys.executable,
        replicas: int = 3,
        retention: str = "7d",
        receipt_bytes: int = 4 << 30,
        database_folder: Path | None = None,
    ) -> None:
        self.program, self.retention = str(program.resolve()), retention
        self.receipt_bytes = receipt_bytes
        self.temporary = tempfile.TemporaryDirectory(prefix="candor-replicas-")
        self.folder = Path(self.temporary.name)
        # PostgreSQL runs as another user below it.
        self.folder.chmod(0o755)
        self.postgres: Postgres
        self.objects: ObjectStore
        self.balancer: Balancer
        self.replicas: list[Replica] = []
        try:
            self.postgres = Postgres(database_folder or self.folder)
            self.objects = ObjectStore(self.folder, python)
            self.replicas = [Replica(self, number) for number in range(1, replicas + 1)]
            # All at once, on an empty database: one of them makes its tables.
            for replica in self.replicas:
                replica.start()
            for replica in self.replicas:
                until(f"{replica.name} is ready", replica.ready)
            self.balancer = Balancer(self)
            self.until_up(len(self.replicas))
        except BaseException:
            self.close()
            raise

    def until_up(self, number: int) -> float:
        """Waits until the balancer uses so many servers."""
        return until(f"{number} servers are up", lambda: len(self.balancer.up()) == number)

    def ask(
        self, method: str, path: str, body: object = None, key: str = "app", **more: object
    ) -> Reply:
        """Sends a request to the balancer."""
        return send(self.balancer.address, method, path, body, KEYS[key], **more)  # type: ignore[arg-type]

    def close(self) -> None:
        """Ends everything."""
        for replica in self.replicas:
            if replica.process is not None:
                stop(replica.process, signal.SIGKILL)
        if hasattr(self, "balancer"):
            stop(self.balancer.process, signal.SIGKILL)
        if hasattr(self, "objects"):
            self.objects.relay.cut()
            stop(self.objects.process, signal.SIGKILL)
        if hasattr(self, "postgres"):
            self.postgres.stop()
        self.temporary.cleanup()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
