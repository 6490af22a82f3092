"""Attacks a server of its own on loopback and says how it and a polite client fared: python3 tools/attack --help"""

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import time
import traceback

import api_attacks  # noqa: F401
import connection_attacks  # noqa: F401
import fetch_attacks  # noqa: F401
import image_attacks  # noqa: F401
import store_attacks  # noqa: F401
from attacks import ATTACKS, Target
import wire
from server import Bystander, Server, photo, raise_file_limit

# The bars.
POLITE_SHARE, POLITE_FACTOR, HEALTH_S, MEMORY_MIB = 0.8, 3, 1.0, 600
# No attack takes longer.
LONGEST_S = 180
COLUMNS = ("attack", "as expected", "polite in time", "polite failed", "quiet p99", "p99", "/health worst", "peak MiB", "outcome")


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def bounded(attack, target):
    """Runs the attack in a process of its own, which is ended when it takes too long."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def work():
        os.setsid()
        # The attackers would be on other machines.
        os.nice(5 if attack.watched else 0)
        try:
            theirs.send(attack.run(target))
        except Exception:
            theirs.send((False, f"the attack itself failed: {traceback.format_exc()[-600:]}"))

    process = context.Process(target=work)
    process.start()
    told = ours.recv() if ours.poll(LONGEST_S) else (False, f"the attack took more than {LONGEST_S} s")
    process.join(2)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return told


def stage(name, variant, arguments):
    """Runs one attack against a fresh server; a row of the table."""
    attack = ATTACKS[name]
    row = {"attack": f"{name}/{variant}" if len(attack.variants) > 1 else name}
    seconds, rng, server = 6 if arguments.quick else 15, random.Random(arguments.seed), None
    try:
        if attack.watched:
            server = Server(arguments.candor, attack.config, keys=variant == "keys")
        target = Target(server, server and server.keys["attacker"], seconds, rng, arguments.quick, arguments.candor)
        if not attack.watched:
            row["expected"], row["outcome"] = bounded(attack, target)
            return row
        for _ in range(3):
            server.ask("POST", "/v1/chat/completions", wire.chat(photo(), max_tokens=16))
        bystander = Bystander(server)
        time.sleep(2 if arguments.quick else 5)
        begun = time.monotonic()
        row["expected"], row["outcome"] = bounded(attack, target)
        # What the attack left may still weigh.
        time.sleep(max(0.0, 3 - (time.monotonic() - begun)))
        polite, health, peak = bystander.finish()
        quiet = [seconds for start, seconds, status in polite if start + seconds < begun]
        under = [(seconds, status) for start, seconds, status in polite if start + seconds >= begun]
        limit = POLITE_FACTOR * percentile(quiet, 0.99)
        row["polite_in_time"] = sum(status == 200 and seconds <= limit for seconds, status in under) / max(len(under), 1)
        row["polite_failed"] = sum(status != 200 for _, status in under)
        row["polite"] = len(under)
        row["quiet_p99_s"], row["p99_s"] = percentile(quiet, 0.99), percentile([seconds for seconds, _ in under], 0.99)
        row["health_worst_s"] = max((seconds if status == 200 else 10.0 for start, seconds, status in health if start + seconds >= begun), default=0.0)
        row["peak_mib"] = max(peak, server.memory("VmHWM"))
        if not server.alive():
            row["expected"], row["outcome"] = False, f"THE SERVER ENDED ({server.process.poll()}); {row['outcome']}"
        elif server.ask("GET", "/health").status != 200:
            row["expected"], row["outcome"] = False, f"/health is dead afterwards; {row['outcome']}"
        if "panicked" in server.log():
            row["expected"], row["outcome"] = False, f"a panic in the log; {row['outcome']}"
    except Exception as error:  # One attack that cannot be run hides no other.
        row["expected"], row["outcome"] = False, f"the attack itself failed: {error!r}"
    finally:
        if server:
            if arguments.logs:
                pathlib.Path(arguments.logs).mkdir(parents=True, exist_ok=True)
                (pathlib.Path(arguments.logs) / f"{row['attack'].replace('/', '-')}.log").write_text(server.log())
            server.clean()
    return row


def missed(row):
    """The bars that a row misses."""
    bars = {
        "outcome": row["expected"],
        "polite": row.get("polite_in_time", 1.0) >= POLITE_SHARE,
        "/health": row.get("health_worst_s", 0.0) <= HEALTH_S,
        "memory": row.get("peak_mib", 0) <= MEMORY_MIB,
    }
    return [name for name, held in bars.items() if not held]


def cells(row):
    seconds = lambda name: f"{row[name] * 1000:.0f} ms" if name in row else "–"
    share = f"{row['polite_in_time']:.0%} of {row['polite']}" if "polite" in row else "–"
    failed = str(row.get("polite_failed", "–"))
    expected = {True: "yes", False: "NO", None: "skipped"}[row["expected"]]
    return (row["attack"], expected, share, failed, seconds("quiet_p99_s"), seconds("p99_s"), seconds("health_worst_s"), str(row.get("peak_mib", "–")), row["outcome"])


def main():
    parser = argparse.ArgumentParser(prog="python3 tools/attack", description=__doc__.split(":")[0], epilog="attacks: " + ", ".join(ATTACKS))
    parser.add_argument("names", nargs="*", metavar="NAME", help="attacks to run; all, where none is named")
    parser.add_argument("--candor", default="target/release/candor", metavar="PROGRAM", help="the server (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="shorter attacks; where none is named, those that the tests run")
    parser.add_argument("--json", metavar="FILE", help="write the rows there as JSON too")
    parser.add_argument("--logs", metavar="FOLDER", help="keep the servers' logs there")
    parser.add_argument("--seed", type=int, default=14, help="what mutations follow from (default: %(default)s)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in ATTACKS]
    if unknown:
        parser.error(f"there is no attack {unknown[0]}; there are {', '.join(ATTACKS)}")
    if not os.access(arguments.candor, os.X_OK):
        parser.error(f"{arguments.candor} is no program; build it with cargo build --release, or name another with --candor")
    raise_file_limit()
    names = arguments.names or [name for name, attack in ATTACKS.items() if attack.quick or not arguments.quick]
    rows = []
    print(" | ".join(COLUMNS), flush=True)
    for name in names:
        for variant in ATTACKS[name].variants:
            row = stage(name, variant, arguments)
            row["missed"] = missed(row) if row["expected"] is not None else []
            rows.append(row)
            print(" | ".join(cells(row)) + (f" | MISSED: {', '.join(row['missed'])}" if row["missed"] else ""), flush=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    failed = sum(bool(row["missed"]) for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} attacks held every bar")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
