"""What windows do to rewards: the five captions of one photograph as one text, read whole and in windows.

    candor serve --listen 127.0.0.1:8080 &
    CANDOR_ENGINE__CONTEXT_LEN=88 candor serve --listen 127.0.0.1:8081 &
    python tests/reference/scored_windows.py --data ../shared/data/flickr8k --whole http://127.0.0.1:8080 --windows http://127.0.0.1:8081

Every second development photograph (the half that calibrated nothing) whose five captions fit into the context of the first server.
"""

import argparse
import base64
import json
import pathlib
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--whole", default="http://127.0.0.1:8080")
parser.add_argument("--windows", default="http://127.0.0.1:8081")
parser.add_argument("--photos", type=int, default=500)
args = parser.parse_args()

captions = {}
for line in (args.data / "captions.tsv").read_text().splitlines():
    photo, _, text = line.split("\t")
    text = text.replace(" .", ".").strip()
    captions.setdefault(photo, []).append(text if text.endswith(".") else text + ".")
photos = (args.data / "dev.txt").read_text().split()[1::2][: args.photos]
files = {path.name: path for path in args.data.glob("images/**/*.jpg")}


def scores(url, batch):
    items = []
    for photo in batch:
        data = base64.b64encode(files[photo].read_bytes()).decode()
        items.append({"image_url": "data:image/jpeg;base64," + data, "response": " ".join(captions[photo])})
    body = json.dumps({"model": "candor-mini", "items": items}).encode()
    request = urllib.request.Request(url + "/v1/score", data=body, headers={"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=600))["results"]


def flagged(result):
    """The code points that are in a flagged span."""
    return {at for span in result["guard"]["spans"] for at in range(span["start"], span["end"])}


groups = {"seen whole": [], "behind a window's beginning": [], "at a window's beginning": []}
texts = used = windows = 0
for first in range(0, len(photos), 25):
    batch = photos[first : first + 25]
    for photo, whole, cut in zip(batch, scores(args.whole, batch), scores(args.windows, batch)):
        texts += 1
        if "windows" in whole or "windows" not in cut:
            continue
        used += 1
        windows += cut["windows"]
        sides = flagged(whole), flagged(cut)
        starts = {}
        at = 0
        for caption in captions[photo]:
            starts[at] = caption
            at += len(caption) + 1
        # The first window is read as the whole is: what it holds has the same rewards.
        same = True
        for a, b in zip(whole["tokens"], cut["tokens"]):
            same = same and abs(a["reward"] - b["reward"]) < 1e-4 and abs(a["logprob"] - b["logprob"]) < 1e-4
            sentence = max(start for start in starts if start <= a["start"] + (a["token"][:1] == " "))
            early = a["start"] < sentence + len(" ".join(starts[sentence].split()[:3]))
            name = "seen whole" if same else "at a window's beginning" if early else "behind a window's beginning"
            groups[name].append((a["reward"], b["reward"], *(a["end"] - 1 in side for side in sides)))

print(f"{used} of {texts} texts, {windows / max(used, 1):.1f} windows each")
names = {"seen whole": "first window", "at a window's beginning": "later windows, first three words of a sentence", "behind a window's beginning": "later windows, the rest"}
for name, label in names.items():
    rows = groups[name]
    if not rows:
        continue
    size = sum(abs(a - b) for a, b, _, _ in rows) / len(rows)
    shift = sum(b - a for a, b, _, _ in rows) / len(rows)
    shares = [sum(row[i] for row in rows) / len(rows) for i in (2, 3)]
    print(f"{label}: {len(rows)} tokens, mean |Δ reward| {size:.4f}, mean Δ {shift:+.4f}, flagged {shares[0]:.1%} whole, {shares[1]:.1%} in windows")
