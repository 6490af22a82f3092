#!/usr/bin/env python3
"""Runs the commands behind the figures of README and docs, and keeps what they wrote in docs/figures.

    tools/figures.py [--candor PROGRAM] [NAME...]      # all, or these; from the repository's root, with ../shared/data beside it

Afterwards `CANDOR_WRITE_TABLES=1 cargo test --release --test it figures` writes the tables into the documents. Photographs, captions and plots are left out of
what is kept: the figures are all that tables need.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/figures"
DATA = "../shared/data"

COMMANDS = {
    "captions-flickr8k": f"eval captions --hypotheses runs/figures/flickr8k.jsonl --generate --references {DATA}/flickr8k",
    "captions-coco-mini": f"eval captions --hypotheses runs/figures/coco-mini.jsonl --generate --references {DATA}/coco-mini",
    "guard-flickr8k": f"eval guard --data {DATA}/flickr8k",
    "guard-coco-mini": f"eval guard --data {DATA}/coco-mini --half all",
    "reward-flickr8k": f"eval reward --data {DATA}/flickr8k",
    "vqa-flickr8k": f"eval vqa --data {DATA}/flickr8k --guard score",
    "vqa-daquar": f"eval vqa --data {DATA}/daquar --guard score",
    "pope-coco-mini": f"eval pope --data {DATA}/coco-mini",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candor", default="target/release/candor", help="the program to run")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMMANDS))
    args = parser.parse_args()
    candor = Path(args.candor).resolve()
    unknown = set(args.names) - COMMANDS.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    os.chdir(ROOT)
    Path("runs/figures").mkdir(parents=True, exist_ok=True)
    for name in args.names or COMMANDS:
        command = COMMANDS[name]
        print(f"{name}: candor {command}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "report.json")
            subprocess.run([candor, *command.split(), "--json", out], check=True, stdout=subprocess.DEVNULL)
            report = json.loads(out.read_text())
        report["command"] = f"candor {command}"
        report["sections"] = {
            title: {"tables": section["tables"]} for title, section in report["sections"].items() if section["tables"]
        }
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
