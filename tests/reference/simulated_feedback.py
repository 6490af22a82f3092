"""Sends corrections that an annotator simulated to a running server, as clients do: with the photograph, as POST /v1/feedback.

    candor train ppo --config annotator.toml --out runs/annotator      # [corrections] limit = 2000, no iterations: see docs/cycle.md
    candor serve &
    python3 tests/reference/simulated_feedback.py runs/annotator/corrections.jsonl ../shared/data/flickr8k/images http://127.0.0.1:8080
"""

import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


def body(row: dict, photographs: Path) -> dict:
    image = base64.b64encode((photographs / row["image"]).read_bytes()).decode()
    said = {
        "image": f"data:image/jpeg;base64,{image}",
        "prompt": row["prompt"],
        "response": row["response"],
        "source": "simulated",
    }
    if not row["errors"]:
        return {**said, "label": "good"}
    if row["scope"] == "all_errors":
        return {**said, "edit": row["corrected"]}
    start, end = row["errors"][0]
    return {**said, "error": {"start": start, "end": end}, "correction": row["corrected"][start:]}


def main(corrections: str, photographs: str, server: str) -> None:
    taken = refused = 0
    for number, line in enumerate(Path(corrections).read_text().splitlines(), 1):
        if not line.strip():
            continue
        data = json.dumps(body(json.loads(line), Path(photographs))).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{Path(corrections).resolve()}:{number}"}
        request = urllib.request.Request(f"{server}/v1/feedback", data, headers)
        try:
            urllib.request.urlopen(request).close()
            taken += 1
        except urllib.error.HTTPError as error:
            refused += 1
            print(f"{corrections}:{number}: {error.read().decode()}", file=sys.stderr)
    print(f"taken {taken}, refused {refused}")


if __name__ == "__main__":
    main(*sys.argv[1:])
