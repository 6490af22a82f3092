"""Memory, descriptors and threads of processes, and the size of what they store, over time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster


@dataclass(frozen=True)
class Sample:
    """State of a process."""

    at: float
    replica: str
    process: int
    memory_mib: float
    descriptors: int
    threads: int


def look(replica: str, process: int) -> Sample | None:
    """State of a process now; `None` if it has ended."""
    folder = Path(f"/proc/{process}")
    try:
        lines = (folder / "status").read_text().splitlines()
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
    except OSError:
        return None
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    if "VmRSS" not in status:
        return None
    memory = int(status["VmRSS"].split()[0]) / 1024
    return Sample(time.monotonic(), replica, process, memory, descriptors, int(status["Threads"]))


# Bytes that `receipts.max_bytes` bounds: receipts, and each photograph that they refer to once.
STORED = """SELECT (SELECT coalesce(sum(bytes), 0) FROM receipts) + (SELECT coalesce(sum(size), 0)
FROM (SELECT max(image_bytes) AS size FROM receipts GROUP BY image) AS images)"""
# Looks at the processes for each look at the store.
LOOKS = 10


class Watch:
    """Looks at all replicas every second or so, in a thread."""

    def __init__(self, cluster: Cluster, period_s: float) -> None:
        self.cluster, self.period_s = cluster, period_s
        self.samples: list[Sample] = []
        # Times, and bytes of receipts with their photographs.
        self.stored: list[tuple[float, int]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _run(self) -> None:
        looks = 0
        while not self.over.wait(self.period_s):
            for replica in self.cluster.replicas:
                if replica.process is not None:
                    sample = look(replica.name, replica.process.pid)
                    self.samples += [sample] if sample else []
            looks += 1
            stored = self.cluster.postgres.try_query(STORED) if looks % LOOKS == 0 else None
            if stored is not None:
                self.stored.append((time.monotonic(), int(stored)))
