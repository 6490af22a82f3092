"""Clients that ask and correct, and a ledger of what they were told."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from client import CHAT, FEEDBACK, Address, Reply, fresh, judgment, photo, question, send, streamed

# Longest pause of a client between two requests.
PAUSE_S = 0.1


@dataclass
class Event:
    """A request and how it ended."""

    kind: str
    id: str
    begun: float
    ended: float
    reply: Reply

    @property
    def failed(self) -> bool:
        """Whether it was not answered as asked."""
        return self.reply.status not in (200, 201)

    def told(self) -> str:
        """The outcome, in words."""
        reply = self.reply
        reason = reply.code or reply.error
        return f"{self.kind} {reply.status}" + (f" {reason}" if reason else "")


@dataclass
class Ledger:
    """What the clients saw."""

    events: list[Event] = field(default_factory=list)
    # Ids of records by idempotency key, which is their comment too.
    acknowledged: dict[str, str] = field(default_factory=dict)
    # Bodies of feedback that was not acknowledged, by idempotency key.
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Completions by the time at which their answer was complete.
    answers: list[tuple[float, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, *kinds: str) -> list[Event]:
        """Events of some kinds."""
        return [event for event in self.events if event.kind in kinds]

    def failures(self) -> list[Event]:
        """Events that failed."""
        return [event for event in self.events if event.failed]


def tally(events: list[Event]) -> str:
    """How often each outcome came."""
    counted = Counter(event.told() for event in events).most_common()
    return ", ".join(f"{number} × {what}" for what, number in counted) or "none"


def longest(events: list[Event]) -> float:
    """Seconds of the slowest."""
    return max((event.ended - event.begun for event in events), default=0.0)


class Load:
    """Clients in threads, from `start` to `finish`."""

    def __init__(self, address: Address, key: str, clients: int = 6, seed: int = 19) -> None:
        self.address, self.key = address, key
        self.ledger = Ledger()
        self.over = threading.Event()
        self.photos = [photo(name) for name in ("cat", "coffee", "astronaut")]
        self.threads = [
            threading.Thread(target=self._client, args=(random.Random(seed + number),))
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def wait(self, seconds: float) -> None:
        """Lets the clients go on for a while."""
        time.sleep(seconds)

    def until(self, events: int, of: Callable[[Event], bool]) -> None:
        """Waits for so many further events of a sort, for a minute at most."""
        begun, seen = time.monotonic(), len(self.ledger.events)
        while sum(map(of, self.ledger.events[seen:])) < events:
            if time.monotonic() - begun > 60:
                raise TimeoutError(f"not {events} further events of the load within 60 s")
            time.sleep(0.05)

    def _client(self, rng: random.Random) -> None:
        while not self.over.is_set():
            completion = self._ask(rng)
            if completion is not None and rng.random() < 0.7:
                self._judge(completion)
            if rng.random() < 0.3:
                self._judge(None)
            time.sleep(rng.random() * PAUSE_S)

    def _send(self, kind: str, path: str, body: dict[str, Any], **headers: str) -> Reply:
        named = str(uuid.uuid4())
        sent = {"x-request-id": named, **{k.replace("_", "-"): v for k, v in headers.items()}}
        begun = time.monotonic()
        reply = send(self.address, "POST", path, body, self.key, headers=sent)
        reply = streamed(reply) if kind == "stream" else reply
        with self.ledger.lock:
            self.ledger.events.append(Event(kind, named, begun, time.monotonic(), reply))
        return reply

    def _ask(self, rng: random.Random) -> str | None:
        kind = rng.choice(["answer", "stream"])
        image = rng.choice(self.photos)
        if rng.random() < 0.2:
            image = fresh(image, str(uuid.uuid4()))
        body = question(image, max_tokens=24, stream=kind == "stream")
        reply = self._send(kind, CHAT, body)
        completion = reply.json().get("id") if reply.status == 200 else None
        if completion is not None:
            with self.ledger.lock:
                self.ledger.answers.append((time.monotonic(), completion))
        return completion

    def _judge(self, completion: str | None) -> None:
        key = str(uuid.uuid4())
        body = judgment(key, completion)
        kind = "feedback" if completion else "own feedback"
        reply = self._send(kind, FEEDBACK, body, idempotency_key=key)
        with self.ledger.lock:
            if reply.status == 201:
                self.ledger.acknowledged[key] = reply.json()["id"]
            else:
                self.ledger.refused[key] = body
