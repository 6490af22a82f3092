"""How many of people's questions a running server finds out of scope, by reason, whatever the photograph.

    candor serve --listen 127.0.0.1:8080 &
    python tests/reference/scope.py --questions ../shared/data/daquar/questions.jsonl
    python tests/reference/scope.py --questions ../shared/data/vqa-rad/questions.jsonl

Each question is asked about one photograph, and of answers a token is written. `--show` prints those that get no answer. Standard library alone.
"""

import argparse
import base64
import collections
import concurrent.futures
import json
import pathlib
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("--questions", type=pathlib.Path, required=True)
parser.add_argument("--photo", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "fixtures/photos/cat.jpg")
parser.add_argument("--url", default="http://127.0.0.1:8080")
parser.add_argument("--show", action="store_true")
args = parser.parse_args()

# Reasons that the photograph gives, or the answer.
OTHERS = {"unfamiliar", "unsure"}
image = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(args.photo.read_bytes()).decode()}}
with urllib.request.urlopen(f"{args.url}/v1/models") as models:
    model = json.load(models)["data"][0]["id"]


def reason(question):
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": [image, {"type": "text", "text": question}]}]}
    request = urllib.request.Request(f"{args.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["choices"][0]["guard"].get("reason")


questions = [json.loads(line)["question"] for line in args.questions.read_text().splitlines()]
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    reasons = list(pool.map(reason, questions))
counted = collections.Counter(reason for reason in reasons if reason and reason not in OTHERS)
print(f"{sum(counted.values())} of {len(questions)} questions are out of scope ({sum(counted.values()) / len(questions):.2%}): {dict(counted)}")
if args.show:
    for question, why in zip(questions, reasons):
        if why and why not in OTHERS:
            print(f"{why}\t{question}")
