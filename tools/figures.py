#!/usr/bin/env python3
"""Runs the commands behind the figures of README and docs, and keeps what they wrote in docs/figures.

    tools/figures.py [--candor PROGRAM] [--model DIR] [NAME...]      # all, or these; from the repository's root, with ../shared/data beside it

Afterwards `CANDOR_WRITE_TABLES=1 cargo test --release --test it figures` writes the tables into the documents. Photographs, captions and plots are left out of
what is kept: the figures are all that tables need.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/figures"
DATA = "../shared/data"
#: Photographs that the evidence network did not learn from: tools/held_out.py --data ../shared/data --out runs/held-out
HELD_OUT = "runs/held-out"

COMMANDS = {
    "captions-flickr8k": f"eval captions --hypotheses runs/figures/flickr8k.jsonl --generate --references {DATA}/flickr8k",
    "captions-coco-mini": f"eval captions --hypotheses runs/figures/coco-mini.jsonl --generate --references {DATA}/coco-mini",
    "guard-flickr8k": f"eval guard --data {DATA}/flickr8k",
    "guard-coco-mini": f"eval guard --data {HELD_OUT}/coco-mini --half all",
    "reward-flickr8k": f"eval reward --data {DATA}/flickr8k",
    "vqa-flickr8k": f"eval vqa --data {DATA}/flickr8k",
    "vqa-daquar": f"eval vqa --data {HELD_OUT}/daquar",
    "pope-coco-mini": f"eval pope --data {HELD_OUT}/coco-mini",
    "honesty": f"eval honesty --data {DATA} --quick 250 --folds runs/folds --report runs/honesty --against runs/honesty-0/report.json",
    "speed": f"bench --guard off,score,flag,regenerate --photos {DATA}/flickr8k/images",
    "speed-probe": f"bench --guard off,score,flag,regenerate --photos {DATA}/flickr8k/images",
}


#: Scripts that ask a running server.
SCRIPTS = {
    "texts-flickr8k": f"tests/reference/scored_captions.py --data {DATA}/flickr8k",
    "texts-coco-mini": f"tests/reference/scored_captions.py --data {HELD_OUT}/coco-mini",
}

#: Set for a command.
VARIABLES = {"speed-probe": {"CANDOR_MODEL__REWARD": "probe"}}


def figures(report):
    """What a report says in tables."""
    sections = {title: {"tables": section["tables"]} for title, section in report["sections"].items() if section["tables"]}
    return {"facts": report["facts"], "sections": sections}


def bundle():
    """Facts about the embedded bundle."""
    config = json.loads((ROOT / "models/candor-mini/config.json").read_text())
    return {"model": config["name"], "model version": config["version"]}


def asked(candor, script, out, model):
    """Runs a script against a server of its own, and returns what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        command = [candor, "serve", "--listen", "127.0.0.1:0"]
        chosen = {"CANDOR_MODEL__NAME": str(Path(model).resolve())} if model else {}
        server = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | chosen
        )
        try:
            url = server.stdout.readline().split()[-1]
            subprocess.run([sys.executable, *script.split(), "--url", url, "--json", out], check=True, stdout=subprocess.DEVNULL)
        finally:
            server.terminate()
            server.wait()
    report = json.loads(out.read_text())
    return {**report, "facts": report["facts"] | bundle()}


def speed(measured):
    """A measurement of speed in the shape of a report: a row a guard, number of requests and kind of photographs."""
    measured.pop("model")
    measured_rows = measured.pop("rows")
    several = len({row["scorer"] for row in measured_rows} - {None}) > 1
    rows = {}
    for row in measured_rows:
        guard, scorer, requests, photographs = (row.pop(key) for key in ("guard", "scorer", "concurrency", "photographs"))
        name = f"{guard}, {scorer}" if several and scorer else guard
        figures = {name: {"value": value} for name, value in row.items() if value is not None}
        rows[f"{name}, {requests} at once, {photographs}"] = figures
    start = {"start": {name: {"value": value} for name, value in measured.items()}}
    return {"facts": bundle(), "sections": {"Speed": {"tables": {"Speed": {"rows": rows}, "Start": {"rows": start}}}}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candor", default="target/release/candor", help="the program to run")
    parser.add_argument("--model", help="a folder with the bundle that is embedded, where the program has another version of it")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*COMMANDS, *SCRIPTS]))
    args = parser.parse_args()
    candor = Path(args.candor).resolve()
    known = [*COMMANDS, *SCRIPTS]
    unknown = set(args.names) - set(known)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    os.chdir(ROOT)
    Path("runs/figures").mkdir(parents=True, exist_ok=True)
    FOLDER.mkdir(exist_ok=True)
    for name in args.names or known:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "report.json")
            if name in SCRIPTS:
                kept = asked(candor, SCRIPTS[name], out, args.model)
                kept["command"] = f"python {SCRIPTS[name]}"
            else:
                command, more = COMMANDS[name], VARIABLES.get(name, {})
                chosen = ["--model", args.model] if args.model else []
                run = [candor, *command.split(), *chosen, "--json", out]
                subprocess.run(run, check=True, stdout=subprocess.DEVNULL, env=os.environ | more)
                report = json.loads(out.read_text())
                kept = speed(report) if command.startswith("bench") else figures(report)
                kept["command"] = " ".join([*(f"{key}={value}" for key, value in more.items()), "candor", command])
        print(f"{name}: {kept['command']}", flush=True)
        (FOLDER / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
