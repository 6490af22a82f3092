"""Bounded traffic of several kinds against a running server: what its metrics count."""

import base64
import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

QUESTIONS = ("Describe the picture.", "What is in this picture?", "Is there a dog?", "How many?")
#: The guard of each caption in turn. High thresholds mark many words, so that all actions occur.
GUARDS: tuple[Json, ...] = (
    {"mode": "flag"},
    {"mode": "flag"},
    {"mode": "regenerate"},
    {"mode": "regenerate", "threshold": 0.8},
    {"mode": "flag", "threshold": 0.6, "on_exhausted": "omit"},
    {"mode": "flag", "threshold": 0.6, "on_exhausted": "hedge"},
    {"mode": "block", "threshold": 0.6},
    {"mode": "score", "candidates": 2},
    {"mode": "off"},
)
ANNOTATORS = ("first", "second")


@dataclass
class Reply:
    status: int
    body: bytes

    def json(self) -> Json:
        return json.loads(self.body)


@dataclass
class Client:
    """Sends requests to a server, each on a connection of its own, and counts the answers."""

    host: str
    photos: list[str]
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, kind: str, method: str, path: str, body: Json | None = None) -> Reply:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            headers = {"content-type": "application/json"}
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, headers)
            response = connection.getresponse()
            reply = Reply(response.status, response.read())
        finally:
            connection.close()
        with self.lock:
            self.counts[kind, reply.status] += 1
        return reply

    def ask(self, kind: str, step: int, text: str, **options: Any) -> Reply:
        photo = {"type": "image_url", "image_url": {"url": self.photos[step % len(self.photos)]}}
        content = [{"type": "text", "text": text}, photo]
        body = {"model": "candor-mini", "messages": [{"role": "user", "content": content}]}
        return self.send(kind, "POST", "/v1/chat/completions", {**body, **options})


def photographs(folder: Path) -> list[str]:
    """All photographs of a folder as data: URLs."""
    files = sorted(folder.glob("*.jpg"))
    if not files:
        raise SystemExit(f"{folder}: no photographs (*.jpg)")
    return ["data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode()
            for file in files]


def error_in(response: str, step: int) -> Json | None:
    """Marks one of the longer words, as a person would who finds it wrong."""
    words = list(re.finditer(r"[A-Za-z]{4,}", response))
    if not words:
        return None
    word = words[step % len(words)]
    return {"start": word.start(), "end": word.end(), "correction": "thing"}


def caption(client: Client, step: int) -> None:
    guard, seed = GUARDS[step % len(GUARDS)], {"seed": step, "temperature": 0.8}
    question = QUESTIONS[step % 2]
    client.ask("caption", step // 2, question, guard=guard, stream=step % 3 == 0, **seed)


def question(client: Client, step: int) -> None:
    client.ask("question", step, QUESTIONS[2 + step % 2], max_tokens=8)


def unanswerable(client: Client, step: int) -> None:
    client.ask("unanswerable", step, "What time is it?")


def bad(client: Client, step: int) -> None:
    client.send("bad request", "POST", "/v1/chat/completions", {"messages": step})


def score(client: Client, step: int) -> None:
    text = ("A cat is sitting next to a Frisbee.", "A man rides a horse.")[step % 2]
    body = {"model": "candor-mini", "image_url": client.photos[step % 4], "response": text}
    client.send("score", "POST", "/v1/score", body)


def correct(client: Client, step: int) -> None:
    """Captions a photograph and corrects what the guard marked, another word, or nothing."""
    options = {"guard": {"mode": "flag", "threshold": 0.6}, "temperature": 0.8, "seed": step}
    reply = client.ask("caption", step, QUESTIONS[0], **options)
    if reply.status != 200:
        return
    answer = reply.json()
    choice = answer["choices"][0]
    marked = [{"start": span["start"], "end": span["end"], "correction": "thing"}
              for span in choice["guard"]["spans"]]
    error = error_in(choice["message"]["content"], step) if step % 4 else None
    error = marked[0] if marked and step % 4 > 1 else error
    judgment: Json = {"errors": [error]} if error else {"label": "good"}
    if step % 9 == 1:
        judgment = {"missing": "the background"}
    body = {"completion_id": answer["id"], "choice": choice["index"], **judgment}
    client.send("correction", "POST", "/v1/feedback", body)


def annotate(client: Client, step: int) -> None:
    """Two annotators judge answers of the queue; they differ on some."""
    for number, annotator in enumerate(ANNOTATORS):
        who = {"annotator": annotator}
        reply = client.send("queue", "POST", "/v1/queue/next", who)
        if reply.status != 200:
            continue
        item = reply.json()
        error = error_in(item["response"], len(item["response"]) + number * (step % 3 == 0))
        judgment: Json = {"errors": [error]} if error else {"label": "good"}
        body = {"completion_id": item["completion_id"], "choice": item["choice"], **who, **judgment}
        client.send("judgment", "POST", "/v1/feedback", body)


KINDS: tuple[Callable[[Client, int], None], ...] = (
    caption, correct, question, caption, score, correct, unanswerable, caption, annotate, bad,
)
#: What each kind has to be answered with at least once.
EXPECTED = {
    "caption": 200, "question": 200, "unanswerable": 200, "bad request": 400, "score": 200,
    "correction": 201, "queue": 200, "judgment": 201,
}


def run(
    client: Client, seconds: float, workers: int, first: int, stop: threading.Event | None = None
) -> int:
    """Sends all kinds in turn for some seconds; returns the number of steps, to go on from."""
    until = time.monotonic() + seconds
    stop = stop or threading.Event()
    steps = iter(range(first, first + 1_000_000))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while time.monotonic() < until and not stop.is_set():
                with client.lock:
                    step = next(steps)
                KINDS[step % len(KINDS)](client, step // len(KINDS) + step % len(KINDS))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return next(steps)


def missing(client: Client) -> list[str]:
    """Kinds of traffic that were never answered as they should be, with what came instead."""
    return [
        f"traffic: {kind} was never answered with {status}: "
        f"{ {s: n for (k, s), n in client.counts.items() if k == kind} }"
        for kind, status in EXPECTED.items() if not client.counts[kind, status]
    ]
