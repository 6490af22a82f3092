"""Mixed traffic at 80 % of the capacity, with faults, for an hour: what grows, and what fails.

python3 tools/soak --candor target/release/candor --minutes 60 --out runs/soak
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/operations"))

import report  # noqa: E402
from cluster import KEYS, Cluster, Missing, end_on_signals  # noqa: E402
from faults import Faults, SmallDisk  # noqa: E402
from traffic import Arrivals, Traffic, capacity  # noqa: E402
from watch import Watch  # noqa: E402

# Share of the capacity that is asked for.
SHARE = 0.8
# Clients that never pause, while the capacity is measured.
CLIENTS = 12
DISK_MIB = 1024
# Bound on receipts: they reach it, and the oldest go.
RECEIPT_BYTES = 32 << 20


def small_disk(folder: Path) -> SmallDisk | None:
    """A disk that can be filled; `None` without the right to mount one."""
    try:
        return SmallDisk(folder / "disk", DISK_MIB)
    except (OSError, subprocess.CalledProcessError):
        print("no file system can be mounted: the full disk is left out", flush=True)
        return None


def soak(cluster: Cluster, disk: SmallDisk | None, arguments: argparse.Namespace) -> report.Soak:
    """Measures the capacity, then lets traffic and faults run."""
    address, key = cluster.balancer.address, KEYS["app"]
    seconds = arguments.minutes * 60
    warm = Traffic(address, key, arguments.seed)
    capacity(warm, min(10.0, seconds / 20), CLIENTS)
    most = capacity(warm, min(30.0, seconds / 10), CLIENTS)
    print(f"capacity: {most:.1f} requests a second", flush=True)
    traffic = Traffic(address, key, arguments.seed)
    faults = Faults(cluster, disk, min(30.0, seconds / 40))
    begun = time.monotonic()
    with Watch(cluster, max(0.5, seconds / 1200)) as watch:
        with Arrivals(traffic, SHARE * most, arguments.seed) as arrivals:
            failures = inject(faults, begun, seconds, arguments.rounds)
            time.sleep(max(0.0, begun + seconds - time.monotonic()))
    ended = time.monotonic()
    found = report.Soak(
        begun=begun,
        seconds=ended - begun,
        capacity=most,
        rate=SHARE * most,
        late=arrivals.late,
        outcomes=traffic.outcomes,
        samples=watch.samples,
        faults=faults.done,
        stored=watch.stored,
    )
    found.wrong += failures
    acknowledged = {**warm.acknowledged, **traffic.acknowledged}
    inspect(cluster, acknowledged, found)
    return found


def inject(faults: Faults, begun: float, seconds: float, rounds: int) -> list[str]:
    """Injects all faults in turn, evenly spread over the middle of the time.

    Returns why it could not go on.
    """
    names = faults.names() * rounds
    # The first quarter warms up; the last tenth shows what is left.
    times = [begun + seconds * (0.25 + 0.65 * n / len(names)) for n in range(len(names))]
    for name, due in zip(names, times, strict=True):
        time.sleep(max(0.0, due - time.monotonic()))
        if time.monotonic() > begun + 0.95 * seconds:
            print(f"no time is left for the fault {name}", flush=True)
            continue
        print(f"{time.monotonic() - begun:6.0f} s: {name}", flush=True)
        try:
            faults.inject(name)
        except (OSError, RuntimeError) as error:
            return [f"after the fault {name}: {error}"]
    return []


def inspect(cluster: Cluster, acknowledged: dict[str, str], found: report.Soak) -> None:
    """Looks at what is left in the end."""
    kept = set(cluster.postgres.query("SELECT id FROM feedback").split())
    lost = set(acknowledged.values()) - kept
    if lost:
        found.wrong.append(f"{len(lost)} acknowledged records are lost")
    panics = [replica.name for replica in cluster.replicas if "panicked" in replica.log()]
    if panics:
        found.wrong.append(f"panics in the logs of {', '.join(panics)}")
    sizes = [size / 2**20 for _, size in found.stored] or [0.0]
    found.figures |= {
        "acknowledged_records": len(acknowledged),
        "lost_records": len(lost),
        "receipts_left": int(cluster.postgres.query("SELECT count(*) FROM receipts")),
        "receipts_bound_mib": RECEIPT_BYTES >> 20,
        "receipts_most_mib": round(max(sizes), 1),
        "receipts_last_mib": round(sizes[-1], 1),
        "receipts_dropped": sum(
            replica.metric("candor_receipts_dropped_total") for replica in cluster.replicas
        ),
        "photographs_left": len(cluster.objects.names()),
    }


def main() -> int:
    """The command line."""
    own = ROOT / ".venv/bin/python"
    parser = argparse.ArgumentParser(
        prog="python3 tools/soak", description=(__doc__ or "").split("\n")[0]
    )
    default = ROOT / "target/release/candor"
    parser.add_argument("--candor", type=Path, default=default, help="the program")
    parser.add_argument("--minutes", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=1, help="how often each fault comes")
    parser.add_argument("--replicas", type=int, choices=(1, 2, 3), default=3)
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/soak", help="folder of the report")
    parser.add_argument(
        "--python",
        default=str(own) if own.exists() else sys.executable,
        help="Python with the packages of tests/stores (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.minutes < 2 or arguments.rounds < 1:
        parser.error("--minutes is at least 2, and --rounds at least 1")
    if not os.access(arguments.candor, os.X_OK):
        parser.error(f"{arguments.candor} is no program; build it, or name another with --candor")
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix="candor-soak-") as folder:
        Path(folder).chmod(0o755)
        disk = small_disk(Path(folder))
        try:
            with Cluster(
                arguments.candor,
                python=arguments.python,
                replicas=arguments.replicas,
                retention="10m",
                receipt_bytes=RECEIPT_BYTES,
                database_folder=disk.folder if disk else None,
            ) as cluster:
                found = soak(cluster, disk, arguments)
        except Missing as missing:
            print(f"missing: {missing}", file=sys.stderr)
            return 2
        finally:
            if disk:
                disk.close()
    command = shlex.join(["python3", "tools/soak", "--minutes", f"{arguments.minutes:g}"])
    summary = report.write(found, arguments.out, command)
    print(f"{summary['verdict']}: {arguments.out / 'report.md'}")
    for wrong in summary["wrong"]:
        print(f"  {wrong}")
    return 0 if summary["verdict"] == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
