"""How often a running server doubts people's captions of Flickr8k's development photographs, of the right photograph and of another.

    candor serve --listen 127.0.0.1:8080 &
    python tests/reference/scored_captions.py --data ../shared/data/flickr8k --url http://127.0.0.1:8080

Every second photograph (the half that calibrated nothing), the first caption of each.
"""

import argparse
import base64
import json
import pathlib
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--url", default="http://127.0.0.1:8080")
args = parser.parse_args()

captions = {}
for line in (args.data / "captions.tsv").read_text().splitlines():
    photo, number, text = line.split("\t")
    if number == "0":
        captions[photo] = text.replace(" .", ".").strip()
photos = (args.data / "dev.txt").read_text().split()[1::2]
files = {path.name: path for path in args.data.glob("images/**/*.jpg")}


def scores(author, shift):
    flagged = doubted = words = 0
    for first in range(0, len(photos), 50):
        items = []
        for i, photo in enumerate(photos[first : first + 50], first):
            data = base64.b64encode(files[photo].read_bytes()).decode()
            items.append({"image_url": "data:image/jpeg;base64," + data, "response": captions[photos[(i + shift) % len(photos)]]})
        body = json.dumps({"model": "candor-mini", "author": author, "items": items}).encode()
        request = urllib.request.Request(args.url + "/v1/score", data=body, headers={"content-type": "application/json"})
        for result in json.load(urllib.request.urlopen(request, timeout=600))["results"]:
            flagged += result["guard"]["verdict"] == "flagged"
            doubted += sum(len(span["text"].split()) for span in result["guard"]["spans"])
            words += len(result["response"].split())
    return f"{flagged / len(photos):.1%} of captions, {doubted / words:.1%} of words"


for author in ["other", "model"]:
    print(f"author {author}: doubts {scores(author, 0)} of the right photograph; {scores(author, 7)} of another")
