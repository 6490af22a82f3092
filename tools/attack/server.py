"""A server of one's own on loopback, and those who watch it."""

import hashlib
import multiprocessing
import pathlib
import resource
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import wire

PHOTOS = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/photos"
KEYS = {"polite": "polite-0123456789abcdef", "attacker": "attacker-0123456789abcdef"}
# Whoever is not the attacker comes from an address of their own.
ATTACKER, POLITE, PROBE = "127.0.0.1", "127.0.0.2", "127.0.0.3"


def photo(name="cat"):
    return (PHOTOS / f"{name}.jpg").read_bytes()


class Server:
    """`candor serve` in a folder of its own; its log is `log` there."""

    def __init__(self, program, config="", keys=True, folder=None, prepare=None):
        self.temporary = tempfile.TemporaryDirectory(prefix="candor-attack-") if folder is None else None
        self.folder = pathlib.Path(folder or self.temporary.name)
        self.program, self.prepare, self.process = pathlib.Path(program).resolve(), prepare, None
        tables = "".join(
            f'\n[[keys]]\nname = "{name}"\nkey_sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n' for name, key in KEYS.items()
        )
        (self.folder / "candor.toml").write_text(config + (tables if keys else ""))
        self.keys = KEYS if keys else dict.fromkeys(KEYS)
        self.start()

    def start(self):
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(
            [self.program, "serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--config", "candor.toml"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=log,
            preexec_fn=self.prepare,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder)},
        )
        line = self.process.stdout.readline().decode()
        if "http://" not in line:
            self.process.wait(10)
            raise RuntimeError(f"the server does not start: {self.log()[-2000:]}")
        host, port = line.split("http://")[1].strip().rsplit(":", 1)
        self.address = (host, int(port))
        for _ in range(600):
            if self.ask("GET", "/health/ready").status == 200:
                return
            time.sleep(0.05)
        raise RuntimeError(f"the server is not ready: {self.log()[-2000:]}")

    def ask(self, method, path, body=None, who="polite", **options):
        """A request of the polite client, or of another."""
        return wire.request(self.address, method, path, body, key=self.keys[who], **options)

    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def memory(self, name="VmRSS"):
        """MiB that the process has, or had at most (VmHWM); 0 when it has ended."""
        try:
            status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith(name)), 0)

    def alive(self):
        """Whether the process runs; also for processes that did not start it."""
        try:
            return pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process.stdout.close()

    def clean(self):
        self.stop()
        if self.temporary:
            self.temporary.cleanup()


def raise_file_limit():
    """As many open files as this user may have, for this process and its children."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Bystander:
    """A polite client and a probe of /health, in a process of their own."""

    CADENCE_S = 0.2

    def __init__(self, server):
        context = multiprocessing.get_context("fork")
        self.ours, theirs = context.Pipe()
        self.process = context.Process(target=_stand_by, args=(theirs, server.address, server.keys["polite"], server.process.pid), daemon=True)
        self.process.start()

    def finish(self):
        """When and how each request went: `[(start, seconds, status)]` of the polite client and of the probe, and the most MiB seen."""
        self.ours.send("stop")
        seen = self.ours.recv() if self.ours.poll(60) else ([], [], 0)
        self.process.join(5)
        return seen


def _stand_by(pipe, address, key, pid):
    over, polite, health, peak = threading.Event(), [], [], [0]
    body = wire.chat(photo(), max_tokens=16)

    # Whether or not the request before has been answered: a server that stands still is late for all that came meanwhile.
    pool = ThreadPoolExecutor(200)

    def each(period, work):
        while not over.wait(period):
            pool.submit(work)

    def timed(into, *what, **options):
        start = time.monotonic()
        status = wire.request(address, *what, **options).status
        into.append((start, time.monotonic() - start, status))

    def probe():
        timed(health, "GET", "/health", source=PROBE, timeout=10)
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            peak[0] = max(peak[0], *(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM")))
        except (OSError, TypeError):
            pass

    tasks = [
        threading.Thread(target=each, args=(Bystander.CADENCE_S, lambda: timed(polite, "POST", "/v1/chat/completions", body, key=key, source=POLITE))),
        threading.Thread(target=each, args=(0.25, probe)),
    ]
    for task in tasks:
        task.start()
    pipe.recv()
    over.set()
    for task in tasks:
        task.join()
    pool.shutdown()
    pipe.send((polite, health, peak[0]))
