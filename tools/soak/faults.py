"""Faults that are injected, and the errors that each explains."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from client import FEEDBACK, judgment
from cluster import Cluster, Replica, until

# After a fault, requests that began during it still end.
AFTER_S = 5.0
# Least room that is worth taking.
PAGE = 4096
FEEDBACK_KINDS = ("feedback", "feedback with a photograph")
# Statuses of feedback while a store is away; 404 is feedback on an answer that is not stored yet.
STORE_AWAY = (503, 404)


@dataclass
class Fault:
    """A fault that was injected."""

    name: str
    begun: float
    ended: float
    recovered: float
    explains: Callable[[str, int], bool]


def feedback_is(*statuses: int) -> Callable[[str, int], bool]:
    """Explains feedback with these statuses."""
    return lambda kind, status: kind in FEEDBACK_KINDS and status in statuses


def of_killed(kind: str, status: int) -> bool:
    """Explains answers that broke off, and what the balancer says of the killed replica."""
    return status in (0, 502)


def nothing(kind: str, status: int) -> bool:
    """Explains no error."""
    return False


def accepts(replica: Replica) -> bool:
    """Whether a replica keeps feedback with a photograph."""
    return replica.ask("POST", FEEDBACK, judgment("probe of the soak")).status == 201


def recovered(cluster: Cluster) -> None:
    """Waits until every replica is ready and keeps feedback."""
    for replica in cluster.replicas:
        until(f"{replica.name} is ready", replica.ready, 120)
        until(f"{replica.name} keeps feedback", partial(accepts, replica), 120)


class Faults:
    """Injects faults into a cluster, one after the other."""

    def __init__(self, cluster: Cluster, disk: SmallDisk | None, away_s: float) -> None:
        self.cluster, self.disk, self.away_s = cluster, disk, away_s
        self.done: list[Fault] = []

    def names(self) -> list[str]:
        """Faults in the order in which they are injected."""
        full = ["full disk"] if self.disk else []
        return ["reload", "replica killed", "PostgreSQL away", "bucket away", *full]

    def inject(self, name: str) -> None:
        """Injects a fault, ends it, and waits until all is well again."""
        begin, end, explains = self._parts(name)
        begun = time.monotonic()
        begin()
        time.sleep(0 if name in ("reload", "replica killed") else self.away_s)
        ended = time.monotonic()
        end()
        recovered(self.cluster)
        self.done.append(Fault(name, begun, ended, time.monotonic(), explains))

    def _parts(
        self, name: str
    ) -> tuple[Callable[[], object], Callable[[], object], Callable[[str, int], bool]]:
        cluster = self.cluster
        last = cluster.replicas[-1]
        relay = cluster.objects.relay
        parts: dict[str, tuple[Callable[[], object], Callable[[], object], Callable[..., bool]]] = {
            "reload": (self._reload, lambda: None, nothing),
            "replica killed": (lambda: self._kill(last), last.start, of_killed),
            "PostgreSQL away": (
                cluster.postgres.stop,
                cluster.postgres.start,
                feedback_is(*STORE_AWAY),
            ),
            "bucket away": (relay.cut, relay.restore, feedback_is(*STORE_AWAY)),
        }
        if self.disk:
            full = feedback_is(507, *STORE_AWAY)
            parts["full disk"] = (self.disk.fill, self._empty_disk, full)
        return parts[name]

    def _reload(self) -> None:
        for replica in self.cluster.replicas:
            if replica.process is not None:
                replica.process.send_signal(signal.SIGHUP)

    def _kill(self, replica: Replica) -> None:
        """Always the same replica, so that the others run from the beginning to the end."""
        if replica.process is not None:
            replica.process.kill()
            replica.process.wait()

    def _empty_disk(self) -> None:
        assert self.disk is not None
        self.disk.empty()
        # On a full disk PostgreSQL may have ended itself; a supervisor would start it again.
        process = self.cluster.postgres.process
        if process is not None and process.poll() is not None:
            self.cluster.postgres.start()


class SmallDisk:
    """A file system in memory for PostgreSQL, which can be filled; only root can mount it."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self.folder, self.ballast = folder, folder / "ballast"
        folder.mkdir()
        options = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
        subprocess.run(options, check=True, capture_output=True)

    def fill(self) -> None:
        """Takes all room."""
        free = os.statvfs(self.folder)
        length = free.f_bavail * free.f_frsize
        with self.ballast.open("wb") as file:
            # PostgreSQL takes and frees some meanwhile.
            while length >= PAGE:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, length)
                except OSError:
                    length //= 2

    def empty(self) -> None:
        """Gives it back."""
        self.ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmounts it."""
        subprocess.run(["umount", str(self.folder)], capture_output=True)
