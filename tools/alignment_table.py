"""The tables of docs/alignment.md from the runs of tools/alignment_runs.sh, in Markdown.

    python3 tools/alignment_table.py runs/align

Figures are of the reporting half of dev, with 95 % intervals over images; where a method has several seeds, the mean of the seeds and their range.
"""
import json
import pathlib
import sys

RUNS = pathlib.Path(sys.argv[1])


def figures(report):
    """Every figure of the report's tables as name -> (value, low, high)."""
    found = {}
    for section in report["sections"]:
        for table in section.get("tables", []):
            print(json.dumps(table)[:400], file=sys.stderr)
    return found


if __name__ == "__main__":
    figures(json.load(open(RUNS / "base/greedy.json")))
