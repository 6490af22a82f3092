"""How often a running server flags people's captions of the photograph that they describe, and of another one.

    candor serve --listen 127.0.0.1:8080 &
    python tests/reference/scored_captions.py --data ../shared/data/flickr8k
    python tests/reference/scored_captions.py --data ../shared/data/coco-mini

The first caption of each photograph: of every second one of Flickr8k's development split (the half that calibrated nothing), or of all of a folder in COCO's layout.
The other photograph is the seventh after it. `--json FILE` writes the figures too.
"""

import argparse
import base64
import json
import pathlib
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--url", default="http://127.0.0.1:8080")
parser.add_argument("--json", type=pathlib.Path)
args = parser.parse_args()

captions = {}
if (args.data / "captions.tsv").is_file():
    for line in (args.data / "captions.tsv").read_text().splitlines():
        photo, number, text = line.split("\t")
        if number == "0":
            captions[photo] = text.replace(" .", ".").strip()
    photos = (args.data / "dev.txt").read_text().split()[1::2]
else:
    coco = json.loads((args.data / "captions.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    for annotation in coco["annotations"]:
        captions.setdefault(names[annotation["image_id"]], annotation["caption"].strip())
    photos = sorted(captions)
files = {path.name: path for path in args.data.glob("images/**/*.jpg")}


def results(author, shift):
    for first in range(0, len(photos), 50):
        items = []
        for i, photo in enumerate(photos[first : first + 50], first):
            data = base64.b64encode(files[photo].read_bytes()).decode()
            items.append({"image_url": "data:image/jpeg;base64," + data, "response": captions[photos[(i + shift) % len(photos)]]})
        body = json.dumps({"model": "candor-mini", "author": author, "items": items}).encode()
        request = urllib.request.Request(args.url + "/v1/score", data=body, headers={"content-type": "application/json"})
        yield from json.load(urllib.request.urlopen(request, timeout=600))["results"]


def figures(author):
    own, other = list(results(author, 0)), list(results(author, 7))
    flagged = lambda of: sum(result["guard"]["verdict"] == "flagged" for result in of) / len(of)
    low = sum(len(span["text"].split()) for result in own for span in result["guard"]["spans"])
    words = sum(len(result["response"].split()) for result in own)
    pairs = [(a["guard"]["score"], b["guard"]["score"]) for a in own for b in other]
    auroc = sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
    named = {"own captions flagged": flagged(own), "words of them": low / words, "another photograph's flagged": flagged(other), "AUROC": auroc, "captions": len(own)}
    return {name: {"value": value} for name, value in named.items()}


rows = {author: figures(author) for author in ["other", "model"]}
for author, row in rows.items():
    print(f"author {author}:", ", ".join(f"{name} {cell['value']:.3f}" for name, cell in row.items()))
if args.json:
    args.json.write_text(json.dumps({"facts": {"data": str(args.data)}, "sections": {"Texts": {"tables": {"Texts": {"rows": rows}}}}}))
