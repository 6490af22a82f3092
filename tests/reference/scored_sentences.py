"""What a sentence's rewards owe to the sentences before it: captions of one photograph, one behind the other, read with all, one and none of those before.

    candor serve --listen 127.0.0.1:8080 &
    python tests/reference/scored_sentences.py --data ../shared/data/flickr8k --url http://127.0.0.1:8080

A text longer than the context is scored in windows, so that its later sentences see only some of those before. Those whose captions do not fit as a
whole are left out. Photographs are every second of the
development ones (the half that calibrated nothing); the sentences are their second to last captions.
"""

import argparse
import base64
import json
import pathlib
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--url", default="http://127.0.0.1:8080")
parser.add_argument("--photos", type=int, default=500)
args = parser.parse_args()

captions = {}
for line in (args.data / "captions.tsv").read_text().splitlines():
    photo, _, text = line.split("\t")
    text = text.replace(" .", ".").strip()
    captions.setdefault(photo, []).append(text if text.endswith(".") else text + ".")
photos = (args.data / "dev.txt").read_text().split()[1::2][: args.photos]
files = {path.name: path for path in args.data.glob("images/**/*.jpg")}


def words(result, start):
    """The reward of every word from a code point on, and whether it is flagged."""
    response, spans = result["response"], result["guard"]["spans"]
    found, at = [], start
    for word in response[start:].split(" "):
        end = at + len(word)
        rewards = [token["reward"] for token in result["tokens"] if token["start"] < end and at < token["end"] - (token["token"][-1:] == " ")]
        found.append((min(rewards), any(span["start"] < end and at < span["end"] for span in spans)))
        at = end + 1
    return found


names = ["none before", "one before"]
rows = {(name, part): [] for name in names for part in ["first three words", "the rest"]}
for photo in photos:
    data = "data:image/jpeg;base64," + base64.b64encode(files[photo].read_bytes()).decode()
    all_of = captions[photo]
    # All before, none before, one before.
    texts = [(" ".join(all_of[first : last + 1]), len(all_of[last])) for last in range(1, len(all_of)) for first in (0, last, last - 1)]
    items = [{"image_url": data, "response": text} for text, _ in texts]
    body = json.dumps({"model": "candor-mini", "items": items}).encode()
    request = urllib.request.Request(args.url + "/v1/score", data=body, headers={"content-type": "application/json"})
    results = json.load(urllib.request.urlopen(request, timeout=600))["results"]
    if any("windows" in result for result in results):
        continue
    scored = [words(result, len(text) - length) for result, (text, length) in zip(results, texts)]
    for whole, *others in zip(scored[::3], scored[1::3], scored[2::3]):
        for name, other in zip(names, others):
            for i, pair in enumerate(zip(whole, other)):
                rows[name, "first three words" if i < 3 else "the rest"].append(pair)

for (name, part), pairs in rows.items():
    size = sum(abs(b[0] - a[0]) for a, b in pairs) / len(pairs)
    shift = sum(b[0] - a[0] for a, b in pairs) / len(pairs)
    flagged = [sum(pair[i][1] for pair in pairs) / len(pairs) for i in (0, 1)]
    print(f"{name}, {part}: {len(pairs)} words, mean |Δ reward| {size:.4f}, mean Δ {shift:+.4f}, flagged {flagged[0]:.2%} with all before, {flagged[1]:.2%}")
