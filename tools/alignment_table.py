"""The tables of docs/alignment.md, in Markdown, from the runs of tools/alignment_runs.sh.

    python3 tools/alignment_table.py runs/align [--json FILE]

Captions: figures of the reporting half of dev, with 95 % intervals over images (of the first seed, where there are several; the range of the seeds stands behind). Questions: the last look at
the tuning half. Right answers: of derived questions about all of dev, without a guard. Speed: medians over a run's iterations. What was not run is left out.
"""

import json
import pathlib
import statistics
import sys

RUNS = pathlib.Path(sys.argv[1])
METHODS = [
    ("candor-mini 0.2.1", ["base"]),
    ("corrections alone", ["corrections-31", "corrections-32", "corrections-33"]),
    ("token-wise PPO", ["ppo-31", "ppo-32", "ppo-33"]),
    ("token-wise PPO, 320 iterations", ["ppo-long"]),
    ("sequence-level PPO", ["sequence-ppo"]),
    ("DPO", ["dpo"]),
    ("DDPO", ["ddpo"]),
    ("SPIN", ["spin"]),
    ("ReST", ["rest"]),
]
COLUMNS = [
    ("open CHAIR_i", "Open vocabulary", "CHAIR_i", 100),
    ("CHAIR_s", "Open vocabulary", "CHAIR_s", 100),
    ("recall", "Open vocabulary", "recall", 100),
    ("COCO-80 CHAIR_i", "Closed vocabulary", "CHAIR_i", 100),
    ("CHAIR_s", "Closed vocabulary", "CHAIR_s", 100),
    ("CIDEr-D", "Description", "CIDEr-D", 1),
    ("BLEU-4", "Description", "BLEU-4", 1),
    ("words", "Open vocabulary", "words", 1),
    ("right answers", None, "right", 100),
]
QUESTIONS = [
    ("token-wise PPO", "short"),
    ("without completeness, consensus and brevity", "no-completeness"),
    ("without KL", "no-kl"),
    ("DDPO, all errors, no wrong labels, all corrections", "all-errors"),
    ("first error alone", "first-error"),
    ("10 % wrong labels", "wrong-10"),
    ("20 % wrong labels", "wrong-20"),
    ("100 corrections", "limit-100"),
    ("300 corrections", "limit-300"),
    ("1,000 corrections", "limit-1000"),
    ("3,000 corrections", "limit-3000"),
]


def figures(run, kind):
    """The figures of a run's captions, a cell a column; None where they are not there."""
    file = RUNS / run / f"{kind}.json"
    if not file.exists():
        return None
    tables = json.loads(file.read_text())["sections"]["Figures"]["tables"]
    answers = RUNS / run / "vqa.json"
    if answers.exists() and kind == "greedy":
        tables[None] = {"rows": {kind: json.loads(answers.read_text())["sections"]["Answers"]["tables"]["Questions derived from the captions"]["rows"]["all"]}}
    return [tables[table]["rows"][kind][name] if table in tables else None for _, table, name, _ in COLUMNS]


def number(value, factor):
    return f"{value * factor:.1f}" if factor == 100 or value > 3 else f"{value:.3f}"


def line(name, runs, kind, base):
    found = [f for f in (figures(run, kind) for run in runs) if f]
    if not found:
        return None
    cells = []
    for i, (title, table, _, factor) in enumerate(COLUMNS):
        if found[0][i] is None:
            cells.append("")
            continue
        values = [f[i]["value"] for f in found if f[i]]
        cell = number(statistics.mean(values), factor)
        if "low" in found[0][i] and i in (0, 1):
            cell += f" [{number(found[0][i]['low'], factor)}, {number(found[0][i]['high'], factor)}]"
        if i in (0, 1) and base and found[0] != base:
            cell += f" ({statistics.mean(values) / base[i]['value'] * 100 - 100:+.0f} %)"
        if len(values) > 1:
            cell += f" {{{number(min(values), factor)}–{number(max(values), factor)}}}"
        cells.append(cell)
    return f"| {name} | " + " | ".join(cells) + " |"


def captions():
    base = figures("base", "greedy")
    print("| | " + " | ".join(title for title, *_ in COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for kind, said in (("greedy", ""), ("guarded", ", guarded")):
        for name, runs in METHODS:
            row = line(name + said, runs, kind, base)
            if row:
                print(row)
        if kind == "greedy":
            row = line("best of 5", ["base"], "best-of-5", base)
            if row:
                print(row)


def looks(run):
    file = RUNS / run / "metrics.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []
    return [entry for entry in lines if "watch/recall" in entry]


def questions():
    names = ["chair_i", "chair_s", "recall", "cider_d", "bleu_4", "words", "reward", "reward_gap"]
    print("\n| | CHAIR_i | CHAIR_s | recall | CIDEr-D | BLEU-4 | words | reward | reward gap |\n|" + "---|" * 9)
    shown = [("before", (looks("short") or [{}])[0])] + [(name, (looks(run) or [{}])[-1]) for name, run in QUESTIONS]
    for name, entry in shown:
        if entry:
            cells = [entry[f"watch/{n}"] for n in names]
            print(f"| {name} | " + " | ".join(f"{c * 100:.1f}" if i < 3 else f"{c:.1f}" if names[i] == "words" else f"{c:.3f}" for i, c in enumerate(cells)) + " |")


def speed():
    print("\n| run | s an iteration | rollout tokens/s | peak memory, MiB |\n|---|---|---|---|")
    for name, runs in METHODS[1:]:
        file = RUNS / runs[0] / "metrics.jsonl"
        if not file.exists():
            continue
        entries = [json.loads(text) for text in file.read_text().splitlines()][-100:]
        own = [e for e in entries if "seconds" in e and "watch/recall" not in e]
        if not own:
            continue
        drawn = [240 * e["tokens"] / e["rollout_seconds"] for e in own if "rollout_seconds" in e and "tokens" in e]
        tokens = f"{statistics.median(drawn):.0f}" if drawn else ""
        print(f"| {name} | {statistics.median(e['seconds'] for e in own):.2f} | {tokens} | {max(e.get('peak_memory_mib', 0) for e in own):.0f} |")


captions()
questions()
speed()
