"""Three Candor processes behind HAProxy, with one PostgreSQL and one S3 store, under faults.

python3 tests/operations/replicas.py --candor target/release/candor [--long] [SCENARIO ...]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from client import CHAT, FEEDBACK, Reply, fresh, judgment, photo, question, send
from cluster import (
    KEYS,
    REQUESTS_PER_MINUTE,
    ROOT,
    Cluster,
    Missing,
    Replica,
    end_on_signals,
    stop,
    until,
)
from load import Ledger, Load, longest, tally

T = TypeVar("T")
Figures = dict[str, float | int | str]


@dataclass
class Report:
    """What a scenario found."""

    wrong: list[str] = field(default_factory=list)
    figures: Figures = field(default_factory=dict)

    def check(self, holds: bool, otherwise: str) -> None:
        """Notes what does not hold."""
        if not holds:
            self.wrong.append(otherwise)


@dataclass
class Lengths:
    """How long the scenarios last, in seconds."""

    # Load before and after a fault.
    calm: float
    # How long a store is away.
    away: float
    kills: int


SHORT, LONG = Lengths(1.5, 7, 1), Lengths(5, 30, 5)
Scenario = Callable[[Cluster, Report, Lengths], None]
SCENARIOS: dict[str, Scenario] = {}
# Of the scenario `retention`.
RETENTION_S = 2
# Scenarios of the long form, or by name.
BY_NAME_ALONE = {"postgres-hangs", "bucket-hangs", "retention"}


def scenario(run: Scenario) -> Scenario:
    """Adds a scenario under its function's name."""
    SCENARIOS[run.__name__.replace("_", "-")] = run
    return run


def records(replica: Replica) -> list[dict[str, object]]:
    """All records, as a replica lists them."""
    found: list[dict[str, object]] = []
    after = ""
    while True:
        page = replica.ask("GET", f"{FEEDBACK}?limit=100&order=asc{after}", timeout=120).json()
        found += page["data"]
        if not page["has_more"]:
            return found
        after = f"&after={page['last_id']}"


def check_kept(cluster: Cluster, ledger: Ledger, report: Report) -> None:
    """Every acknowledged record is there once, at every replica, with its photograph."""
    listed = [records(replica) for replica in cluster.replicas]
    ids = [[record["id"] for record in each] for each in listed]
    report.check(all(each == ids[0] for each in ids), "the replicas list different records")
    comments = [record.get("comment") for record in listed[0]]
    kept = {str(record.get("comment")): record["id"] for record in listed[0]}
    lost = [key for key, id in ledger.acknowledged.items() if kept.get(key) != id]
    twice = len(comments) - len(set(comments))
    report.check(not lost, f"{len(lost)} acknowledged records are lost")
    report.check(twice == 0, f"{twice} records are there twice")
    photographs = cluster.objects.names()
    bare = [record["id"] for record in listed[0] if record["image"] not in photographs]
    report.check(not bare, f"{len(bare)} records have lost their photograph")
    report.figures["acknowledged records"] = len(ledger.acknowledged)
    report.figures["lost records"] = len(lost)


def replay_refused(cluster: Cluster, ledger: Ledger, report: Report) -> None:
    """Sends what was not acknowledged again, with its Idempotency-Key: then it is kept once."""
    for key, body in list(ledger.refused.items()):
        reply = cluster.ask("POST", FEEDBACK, body, headers={"idempotency-key": key})
        if reply.status == 201:
            ledger.acknowledged[key] = reply.json()["id"]
        else:
            report.check(False, f"refused feedback cannot be repeated: {reply.status} {reply.code}")
            return


@scenario
def agreement(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """Corrections, receipts, idempotency keys and leases are the same at every replica."""
    first, second, third = cluster.replicas[:3]
    answers = []
    for number in range(9):
        asked = cluster.replicas[number % 3]
        image = fresh(photo("cat"), f"agreement {number}")
        answers.append(asked.ask("POST", CHAT, question(image, max_tokens=24)))
    report.check(all(answer.status == 200 for answer in answers), "an answer failed")
    ids = [answer.json()["id"] for answer in answers]

    # Feedback at another replica than the answer's, and read at the third.
    judged = second.ask("POST", FEEDBACK, judgment("other replica", ids[0]))
    report.check(judged.status == 201, f"feedback at another replica: {judged.status}")
    read = third.ask("GET", f"{FEEDBACK}/{judged.json().get('id')}")
    report.check(read.json().get("id") == judged.json().get("id"), "a record is not read elsewhere")

    # One Idempotency-Key, sent to all replicas at once.
    replies: list[Reply] = []
    body, headers = judgment("one key", ids[1]), {"idempotency-key": "agreement"}
    at_once(
        lambda replica: replies.append(replica.ask("POST", FEEDBACK, body, headers=headers)),
        cluster.replicas * 4,
    )
    made = {reply.json().get("id") for reply in replies}
    report.check({reply.status for reply in replies} == {201}, "a repeated request was refused")
    report.check(len(made) == 1, f"one Idempotency-Key made {len(made)} records")
    other = first.ask("POST", FEEDBACK, judgment("another body", ids[1]), headers=headers)
    report.check(other.status == 409, f"a key with another body: {other.status}")

    check_leases(cluster, report)
    removed = third.ask("DELETE", f"{FEEDBACK}/{judged.json().get('id')}")
    gone = first.ask("GET", f"{FEEDBACK}/{judged.json().get('id')}")
    report.check(removed.status < 300 and gone.status == 404, "a removed record is read elsewhere")
    listed = [records(replica) for replica in cluster.replicas]
    report.check(listed[0] == listed[1] == listed[2], "the replicas list different records")
    report.figures["records"] = len(listed[0])


def check_leases(cluster: Cluster, report: Report) -> None:
    """An item is leased to one annotator, whichever replicas they ask."""
    leased: dict[str, list[str]] = {"ann": [], "ben": []}

    def work(annotator: str) -> None:
        for turn in range(3):
            replica = cluster.replicas[(turn + (annotator == "ben")) % 3]
            item = replica.ask("POST", "/v1/queue/next", {"annotator": annotator}, annotator)
            if item.status != 200:
                return
            id, completion = item.json()["id"], item.json()["completion_id"]
            leased[annotator].append(id)
            # The lease is found again at another replica.
            other = cluster.replicas[(turn + 2) % 3]
            same = other.ask("POST", "/v1/queue/next", {"annotator": annotator}, annotator)
            report.check(same.json().get("id") == id, "another replica leases another item")
            body = {**judgment(f"{annotator} {turn}", completion), "annotator": annotator}
            done = other.ask("POST", FEEDBACK, {**body, "choice": item.json()["choice"]}, annotator)
            report.check(done.status == 201, f"a leased item cannot be judged: {done.status}")

    at_once(work, list(leased))
    both = set(leased["ann"]) & set(leased["ben"])
    report.check(not both, f"{len(both)} items were leased to two annotators")
    report.check(len(leased["ann"]) == len(leased["ben"]) == 3, f"items were not leased: {leased}")
    lengths = [replica.ask("GET", "/v1/queue").json() for replica in cluster.replicas]
    report.check(lengths[0] == lengths[1] == lengths[2], f"queues differ: {lengths}")
    report.figures["leased items"] = len(leased["ann"]) + len(leased["ben"])


def at_once(work: Callable[[T], object], items: list[T]) -> None:
    """Runs `work` on all items, each in a thread."""
    threads = [threading.Thread(target=work, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@scenario
def promotion(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """A version promoted at one replica is served by all, and rolled back by all."""
    registry = ["--registry", str(cluster.folder / "registry")]

    def models(*arguments: str) -> str:
        command = [cluster.program, "models", *arguments, *registry]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    bundle = cluster.folder / "bundle"
    shutil.copytree(ROOT / "models/candor-mini", bundle)
    settings = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**settings, "version": "another"}))
    old, new = models("register", "candor-mini"), models("register", str(bundle))

    def served() -> set[str]:
        asked = [replica.ask("GET", "/health/ready").json() for replica in cluster.replicas]
        return {str(answer.get("version")) for answer in asked}

    def until_served(id: str) -> float:
        return until(f"all replicas serve {id}", lambda: served() == {id})

    with Load(cluster.balancer.address, KEYS["app"], clients=3) as load:
        for asked, id in ((0, old), (1, new)):
            reply = cluster.replicas[asked].ask("POST", f"/admin/models/{id}/promote", {}, "admin")
            report.check(reply.status == 200, f"promotion of {id}: {reply.status} {reply.code}")
            took = until_served(id)
        report.figures["seconds until all serve a promoted version"] = round(took, 2)
        reply = cluster.replicas[2].ask("POST", f"/admin/models/{new}/rollback", {}, "admin")
        report.check(reply.status == 200, f"rollback: {reply.status} {reply.code}")
        took = until_served(old)
        report.figures["seconds until all serve the version before"] = round(took, 2)
    failures = load.ledger.failures()
    report.check(not failures, f"requests failed meanwhile: {tally(failures)}")
    report.figures["requests meanwhile"] = len(load.ledger.events)


@scenario
def kill(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """kill -9 of a replica under load loses its running answers alone, and no record."""
    failed, requests, slowest = 0, 0, 0.0
    ledgers = []
    for turn in range(lengths.kills):
        victim = cluster.replicas[turn % len(cluster.replicas)]
        with Load(cluster.balancer.address, KEYS["app"], clients=8, seed=turn) as load:
            load.wait(lengths.calm)
            process = victim.process
            assert process is not None
            begun = time.monotonic()
            process.kill()
            process.wait()
            ended = time.monotonic()
            load.wait(lengths.calm)
            victim.start()
            until(f"{victim.name} is ready", victim.ready)
            cluster.until_up(len(cluster.replicas))
            load.wait(lengths.calm)
        check_victims(cluster, victim, load.ledger, (begun, ended), report)
        replay_refused(cluster, load.ledger, report)
        ledgers.append(load.ledger)
        failed += len(load.ledger.failures())
        requests += len(load.ledger.events)
        slowest = max(slowest, longest(load.ledger.events))
    together = Ledger(acknowledged={k: v for each in ledgers for k, v in each.acknowledged.items()})
    check_kept(cluster, together, report)
    report.figures |= {"kills": lengths.kills, "requests": requests, "failed": failed}
    report.figures["slowest request, s"] = round(slowest, 2)


def check_victims(
    cluster: Cluster,
    victim: Replica,
    ledger: Ledger,
    killed: tuple[float, float],
    report: Report,
) -> None:
    """What failed was running at the killed replica when it was killed."""
    begun, ended = killed
    failures = ledger.failures()

    def logged() -> bool:
        return {event.id for event in failures} <= cluster.balancer.served().keys()

    until("HAProxy has logged the failures", logged, 10)
    server = cluster.balancer.served()
    others = [event for event in failures if server[event.id] != victim.name]
    report.check(not others, f"requests of other replicas failed: {tally(others)}")
    late = [event for event in failures if event.begun > ended or event.ended < begun]
    report.check(not late, f"requests failed that were not running: {tally(late)}")


@scenario
def rolling_restart(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """SIGTERM and a new start of each replica in turn: no request fails."""
    with Load(cluster.balancer.address, KEYS["app"], clients=8) as load:
        load.wait(lengths.calm)
        for replica in cluster.replicas:
            process = replica.process
            assert process is not None
            status = stop(process)
            report.check(status == 0, f"{replica.name} ended with status {status}")
            replica.start()
            until(f"{replica.name} is ready", replica.ready)
            cluster.until_up(len(cluster.replicas))
        load.wait(lengths.calm)
    failures = load.ledger.failures()
    report.check(not failures, f"requests failed: {tally(failures)}")
    check_kept(cluster, load.ledger, report)
    report.figures |= {"requests": len(load.ledger.events), "failed": len(failures)}
    report.figures["slowest request, s"] = round(longest(load.ledger.events), 2)


@scenario
def postgres_away(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """PostgreSQL is away: answers go on, feedback gets 503, and nothing acknowledged is lost."""
    outage(cluster, report, lengths, cluster.postgres.stop, cluster.postgres.start)


@scenario
def postgres_hangs(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """PostgreSQL accepts connections and answers nothing: the same."""
    hang = cluster.postgres.hang
    outage(cluster, report, lengths, lambda: hang(True), lambda: hang(False))


@scenario
def bucket_away(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """The S3 store is away: the same."""
    relay = cluster.objects.relay
    outage(cluster, report, lengths, relay.cut, relay.restore)


@scenario
def bucket_hangs(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """The S3 store accepts connections and answers nothing: the same."""
    relay = cluster.objects.relay
    outage(cluster, report, lengths, relay.hang, relay.restore)


def outage(
    cluster: Cluster,
    report: Report,
    lengths: Lengths,
    begin: Callable[[], None],
    end: Callable[[], None],
) -> None:
    """A store is away for a while, under load, and comes back."""
    unready: list[str] = []
    with Load(cluster.balancer.address, KEYS["app"], clients=6) as load:
        load.wait(lengths.calm)
        begun = time.monotonic()
        begin()
        try:
            while time.monotonic() < begun + lengths.away:
                unready += [replica.name for replica in cluster.replicas if not replica.ready()]
                time.sleep(0.25)
        finally:
            ended = time.monotonic()
            end()
        # By itself: feedback is accepted again at every replica.
        recovery = until(
            "feedback is accepted again", lambda: all(map(accepts_feedback, cluster.replicas))
        )
        load.wait(lengths.calm)
    check_outage(load.ledger, (begun, ended), recovery, report)
    report.check(not unready, f"replicas were not ready: {set(unready)}")
    replay_refused(cluster, load.ledger, report)
    check_remembered(cluster, load.ledger, (begun, ended), report)
    check_kept(cluster, load.ledger, report)


def accepts_feedback(replica: Replica) -> bool:
    """Whether feedback with a photograph of its own is kept."""
    body = judgment("after the outage", None)
    headers = {"idempotency-key": f"after the outage {replica.name} {time.monotonic()}"}
    body["comment"] = headers["idempotency-key"]
    return replica.ask("POST", FEEDBACK, body, headers=headers).status == 201


def check_outage(
    ledger: Ledger, away: tuple[float, float], recovery: float, report: Report
) -> None:
    """Answers went on, and what was refused was refused as it should be."""
    begun, ended = away
    during = [event for event in ledger.events if begun < event.begun < ended]
    answers = [event for event in during if event.kind in ("answer", "stream")]
    report.check(bool(answers), "nothing was asked during the outage")
    bad = [event for event in ledger.of("answer", "stream") if event.failed]
    report.check(not bad, f"answers failed: {tally(bad)}")
    refused = [event for event in ledger.of("feedback", "own feedback") if event.failed]
    report.check(bool(refused), "no feedback was refused: the outage was none")
    # A process that has not met the outage yet does not know an answer that another one could not
    # store; docs/replicas.md says so.
    early = [event for event in refused if event.reply.status == 404 and event.kind == "feedback"]
    report.check(len(early) <= len(refused) / 4, f"too many answers were unknown: {tally(early)}")
    wrong = [event for event in refused if event.reply.status != 503 and event not in early]
    report.check(not wrong, f"feedback failed with something else than 503: {tally(wrong)}")
    silent = [e for e in refused if e.reply.status == 503 and "retry-after" not in e.reply.headers]
    report.check(not silent, f"{len(silent)} of {len(refused)} refusals have no Retry-After")
    report.figures |= {
        "seconds away": round(ended - begun, 1),
        "answers meanwhile": len(answers),
        "failed answers": len(bad),
        "slowest answer meanwhile, s": round(longest(answers), 2),
        "refused feedback": len(refused),
        "slowest refusal, s": round(longest(refused), 2),
        "seconds until feedback is accepted again": round(recovery, 2),
    }


def check_remembered(
    cluster: Cluster, ledger: Ledger, away: tuple[float, float], report: Report
) -> None:
    """Answers given during the outage can be corrected after it, at any replica."""
    begun, ended = away
    meanwhile = [id for at, id in ledger.answers if begun < at < ended]

    def unknown(replica: Replica, completions: list[str]) -> list[str]:
        return [
            id
            for number, id in enumerate(completions)
            if replica.ask("POST", FEEDBACK, judgment(f"late {replica.name} {id}", id)).status
            != 201
        ]

    # Receipts that waited are written within seconds.
    deadline = time.monotonic() + 30
    left = unknown(cluster.replicas[0], meanwhile)
    while left and time.monotonic() < deadline:
        time.sleep(1)
        left = unknown(cluster.replicas[0], left)
    report.check(not left, f"{len(left)} of {len(meanwhile)} answers cannot be corrected any more")
    report.figures["answers meanwhile that cannot be corrected"] = len(left)


@scenario
def rates(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """Rates are counted by each process: a key gets its rate at every replica."""
    begun = time.monotonic()
    replies = [
        cluster.ask("POST", CHAT, question(photo(), max_tokens=1), "limited")
        for _ in range(REQUESTS_PER_MINUTE * (len(cluster.replicas) + 2))
    ]
    statuses = [reply.status for reply in replies]
    report.check(set(statuses) <= {200, 429}, f"other statuses than 200 and 429: {set(statuses)}")
    # A minute's worth at once, and what has been refilled since.
    refilled = REQUESTS_PER_MINUTE * (time.monotonic() - begun) / 60 + 1
    least = REQUESTS_PER_MINUTE
    most = int((REQUESTS_PER_MINUTE + refilled) * len(cluster.replicas))
    answered = statuses.count(200)
    report.check(least <= answered <= most, f"{answered} were answered, not {least} to {most}")
    silent = [r for r in replies if r.status == 429 and "retry-after" not in r.headers]
    report.check(not silent, "a 429 has no Retry-After")
    report.figures |= {"requests a minute of the key": REQUESTS_PER_MINUTE, "answered": answered}


@scenario
def keys(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """A new key is accepted by all replicas after SIGHUP, and no request fails meanwhile."""
    key = "another-0123456789abcdef"
    digest = hashlib.sha256(key.encode()).hexdigest()
    table = f'\n[[keys]]\nname = "another"\nowner = "app"\nkey_sha256 = "{digest}"\n'

    def accepted(replica: Replica) -> bool:
        asked = send(replica.address, "GET", "/v1/key", key=key)
        return asked.status == 200

    report.check(not any(map(accepted, cluster.replicas)), "an unknown key is accepted")
    with Load(cluster.balancer.address, KEYS["app"], clients=3) as load:
        for replica in cluster.replicas:
            with (replica.folder / "candor.toml").open("a") as file:
                file.write(table)
            assert replica.process is not None
            replica.process.send_signal(signal.SIGHUP)
        took = until("all accept the key", lambda: all(map(accepted, cluster.replicas)), 10)
    failures = load.ledger.failures()
    report.check(not failures, f"requests failed meanwhile: {tally(failures)}")
    report.figures["seconds until all accept a new key"] = round(took, 2)


@scenario
def retention(cluster: Cluster, report: Report, lengths: Lengths) -> None:
    """Receipts go after their time at whichever replica, with photographs nothing refers to."""
    with Load(cluster.balancer.address, KEYS["app"], clients=6) as load:
        load.wait(8 * RETENTION_S)
    failures = [
        event for event in load.ledger.failures() if event.reply.code != "completion_not_found"
    ]
    report.check(not failures, f"requests failed: {tally(failures)}")

    def left() -> int:
        return int(cluster.postgres.query("SELECT count(*) FROM receipts"))

    until("no receipt is left", lambda: left() == 0)
    kept = {str(record["image"]) for record in records(cluster.replicas[0])}
    until("photographs without a reference are gone", lambda: cluster.objects.names() <= kept)
    # The replicas remove at the same time, and take turns.
    failed = sum(replica.log().count("could not be removed") for replica in cluster.replicas)
    report.check(failed == 0, f"{failed} removals failed")
    check_kept(cluster, load.ledger, report)
    report.figures |= {"answers": len(load.ledger.answers), "photographs kept": len(kept)}


def run(names: list[str], arguments: argparse.Namespace, lengths: Lengths) -> dict[str, Report]:
    """Runs scenarios on one cluster; retention needs one of its own."""
    reports: dict[str, Report] = {}
    for group, kept in ((["retention"], f"{RETENTION_S}s"), (list(SCENARIOS), "7d")):
        chosen = [name for name in names if name in group and name not in reports]
        if not chosen:
            continue
        options = {"python": arguments.python, "retention": kept}
        with Cluster(arguments.candor, **options) as cluster:
            for name in chosen:
                reports[name] = attempt(name, cluster, lengths)
            if arguments.logs:
                keep_logs(cluster, arguments.logs)
    return reports


def attempt(name: str, cluster: Cluster, lengths: Lengths) -> Report:
    """Runs a scenario and says how it went."""
    report, begun = Report(), time.monotonic()
    try:
        SCENARIOS[name](cluster, report, lengths)
        for replica in cluster.replicas:
            report.check("panicked" not in replica.log(), f"a panic in the log of {replica.name}")
    except Exception as error:
        # One scenario that cannot be finished hides no other.
        place = traceback.extract_tb(error.__traceback__)[-1]
        report.check(False, f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})")
    verdict = "FAILED" if report.wrong else "ok"
    print(f"{name}: {verdict} ({time.monotonic() - begun:.0f} s)", flush=True)
    for what, value in report.figures.items():
        print(f"  {what}: {value}", flush=True)
    for wrong in report.wrong:
        print(f"  WRONG: {wrong}", flush=True)
    return report


def keep_logs(cluster: Cluster, folder: Path) -> None:
    """Copies the logs of all programs."""
    folder.mkdir(parents=True, exist_ok=True)
    for replica in cluster.replicas:
        shutil.copy(replica.folder / "log", folder / f"{replica.name}.log")
    for log in cluster.folder.glob("*.log"):
        shutil.copy(log, folder / log.name)


def main() -> int:
    """The command line."""
    lines = [f"  {name}: {run.__doc__}" for name, run in SCENARIOS.items()]
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="scenarios:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help="default: see --long")
    parser.add_argument(
        "--candor", type=Path, default=ROOT / "target/release/candor", help="the program"
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help=f"longer faults, and all scenarios: also {', '.join(sorted(BY_NAME_ALONE))}",
    )
    own = ROOT / ".venv/bin/python"
    parser.add_argument(
        "--python",
        default=str(own) if own.exists() else sys.executable,
        help="Python with the packages of tests/stores (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep all logs there")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no scenario {unknown[0]}; there are {', '.join(SCENARIOS)}")
    if not os.access(arguments.candor, os.X_OK):
        parser.error(f"{arguments.candor} is no program; build it, or name another with --candor")
    default = [name for name in SCENARIOS if arguments.long or name not in BY_NAME_ALONE]
    lengths = LONG if arguments.long else SHORT
    end_on_signals()
    try:
        reports = run(arguments.names or default, arguments, lengths)
    except Missing as missing:
        print(f"missing: {missing}", file=sys.stderr)
        return 2
    if arguments.json:
        rows = {name: {"wrong": r.wrong, **r.figures} for name, r in reports.items()}
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    failed = [name for name, report in reports.items() if report.wrong]
    print(f"{len(reports) - len(failed)} of {len(reports)} scenarios held")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
