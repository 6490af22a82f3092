"""Requests of many kinds, sent at a given rate whether or not earlier ones were answered."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from client import (
    CHAT,
    FEEDBACK,
    MODEL,
    Address,
    Reply,
    data_url,
    fresh,
    judgment,
    photo,
    question,
    send,
    streamed,
)

# Requests that may be open at once; the generator says when it could not keep its rate.
MOST_OPEN = 96
# Answers that clients remember to judge.
REMEMBERED = 256
LONGEST_ANSWER = 32
MODES = ("off", "flag", "regenerate")
BAD: tuple[tuple[str, Any, int], ...] = (
    (CHAT, b"{", 400),
    (CHAT, {"model": "candor-mini"}, 400),
    (CHAT, {"model": "another", "messages": [{"role": "user", "content": "Hello."}]}, 404),
    (CHAT, question(b"no image"), 400),
    (FEEDBACK, {"label": "good"}, 400),
    ("/v1/none", {}, 404),
)


@dataclass(frozen=True)
class Outcome:
    """A request: when it began, how long it took, and what came."""

    kind: str
    begun: float
    seconds: float
    status: int
    code: str
    # Whether it ended as its kind should.
    good: bool
    # When the answer was given that it is about: its receipt may have been lost.
    about: float | None = None


class Traffic:
    """The kinds of requests, and what they share."""

    def __init__(self, address: Address, key: str, seed: int) -> None:
        self.address, self.key, self.rng = address, key, random.Random(seed)
        self.photos = [photo(name) for name in ("cat", "coffee", "astronaut", "photographer")]
        self.answers: deque[tuple[float, str]] = deque(maxlen=REMEMBERED)
        self.judging = threading.local()
        self.outcomes: list[Outcome] = []
        self.acknowledged: dict[str, str] = {}
        self.lock = threading.Lock()
        # Shares in percent.
        self.kinds: dict[str, tuple[int, Callable[[], tuple[Reply, bool]]]] = {
            "known photograph": (30, self._known),
            "new photograph": (12, self._new),
            "stream": (22, self._stream),
            "score": (8, self._score),
            "feedback": (14, self._feedback),
            "feedback with a photograph": (3, self._own_feedback),
            "bad request": (5, self._bad),
            "slow client": (3, self._slow),
            "disconnect": (3, self._leave),
        }

    def one(self) -> None:
        """Sends one request of a random kind."""
        kinds = list(self.kinds)
        with self.lock:
            kind = self.rng.choices(kinds, [self.kinds[name][0] for name in kinds])[0]
        begun = time.monotonic()
        self.judging.about = None
        reply, good = self.kinds[kind][1]()
        seconds = time.monotonic() - begun
        code = reply.code or reply.error
        with self.lock:
            about = self.judging.about
            self.outcomes.append(Outcome(kind, begun, seconds, reply.status, code, good, about))

    def _post(self, path: str, body: Any, **headers: str) -> Reply:
        return send(self.address, "POST", path, body, self.key, headers=headers, timeout=130)

    def _question(self, image: bytes, **more: Any) -> dict[str, Any]:
        guard = {"mode": random.choice(MODES)}
        return question(image, max_tokens=LONGEST_ANSWER, guard=guard, **more)

    def _answered(self, reply: Reply) -> tuple[Reply, bool]:
        if reply.status == 200 and "id" in reply.json():
            self.answers.append((time.monotonic(), reply.json()["id"]))
        return reply, reply.status == 200

    def _known(self) -> tuple[Reply, bool]:
        return self._answered(self._post(CHAT, self._question(random.choice(self.photos))))

    def _new(self) -> tuple[Reply, bool]:
        image = fresh(random.choice(self.photos), str(uuid.uuid4()))
        return self._answered(self._post(CHAT, self._question(image)))

    def _stream(self) -> tuple[Reply, bool]:
        body = self._question(random.choice(self.photos), stream=True)
        return self._answered(streamed(self._post(CHAT, body)))

    def _score(self) -> tuple[Reply, bool]:
        text = "A cat is sleeping on a red sofa."
        body = {"image_url": data_url(random.choice(self.photos)), "response": text}
        reply = self._post("/v1/score", {"model": MODEL, **body})
        return reply, reply.status == 200

    def _feedback(self) -> tuple[Reply, bool]:
        with self.lock:
            about, completion = self.answers.pop() if self.answers else (None, None)
        self.judging.about = about
        return self._judge(completion)

    def _own_feedback(self) -> tuple[Reply, bool]:
        return self._judge(None)

    def _judge(self, completion: str | None) -> tuple[Reply, bool]:
        key = str(uuid.uuid4())
        reply = self._post(FEEDBACK, judgment(key, completion), **{"idempotency-key": key})
        if reply.status == 201:
            with self.lock:
                self.acknowledged[key] = reply.json()["id"]
        return reply, reply.status == 201

    def _bad(self) -> tuple[Reply, bool]:
        path, body, expected = random.choice(BAD)
        reply = self._post(path, body)
        return reply, reply.status == expected

    def _slow(self) -> tuple[Reply, bool]:
        """Sends its body in pieces and reads its stream a little at a time."""
        body = json.dumps(self._question(self.photos[0], stream=True)).encode()
        connection = http.client.HTTPConnection(*self.address, timeout=130)
        try:
            self._head(connection, len(body))
            piece = len(body) // 8 + 1
            for start in range(0, len(body), piece):
                time.sleep(0.1)
                connection.send(body[start : start + piece])
            response = connection.getresponse()
            read = b""
            while some := response.read(256):
                read += some
                time.sleep(0.02)
            reply = streamed(Reply(response.status, {}, read))
        except (OSError, http.client.HTTPException) as error:
            reply = Reply(0, error=repr(error))
        finally:
            connection.close()
        return reply, reply.status == 200

    def _leave(self) -> tuple[Reply, bool]:
        """Leaves after the first bytes of a stream, or before the end of its own body."""
        body = json.dumps(self._question(self.photos[1], stream=True)).encode()
        connection = http.client.HTTPConnection(*self.address, timeout=130)
        try:
            self._head(connection, len(body))
            if random.random() < 0.3:
                connection.send(body[: len(body) // 2])
                return Reply(0, error="left"), True
            connection.send(body)
            response = connection.getresponse()
            response.read(64)
            return Reply(response.status, error="left"), response.status == 200
        except (OSError, http.client.HTTPException) as error:
            return Reply(0, error=repr(error)), False
        finally:
            # At once, with what was not read: the server sees a reset.
            if connection.sock is not None:
                connection.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
                )
            connection.close()

    def _head(self, connection: http.client.HTTPConnection, length: int) -> None:
        connection.putrequest("POST", CHAT)
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(length))
        connection.putheader("authorization", f"Bearer {self.key}")
        connection.endheaders()


def capacity(traffic: Traffic, seconds: float, clients: int) -> float:
    """Requests a second with so many clients that never pause."""
    end = time.monotonic() + seconds

    def client() -> int:
        sent = 0
        while time.monotonic() < end:
            traffic.one()
            sent += 1
        return sent

    begun = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        sent = sum(done.result() for done in [pool.submit(client) for _ in range(clients)])
    return sent / (time.monotonic() - begun)


class Arrivals:
    """Sends requests at random times, so many a second on average."""

    def __init__(self, traffic: Traffic, rate: float, seed: int) -> None:
        self.traffic, self.rate, self.rng = traffic, rate, random.Random(seed)
        self.late = 0
        self.over = threading.Event()
        self.room = threading.Semaphore(MOST_OPEN)
        self.pool = ThreadPoolExecutor(MOST_OPEN)
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Arrivals:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.pool.shutdown()

    def _run(self) -> None:
        due = time.monotonic()
        while not self.over.is_set():
            due += self.rng.expovariate(self.rate)
            time.sleep(max(0.0, due - time.monotonic()))
            if self.room.acquire(blocking=False):
                self.pool.submit(self._one)
            else:
                self.late += 1

    def _one(self) -> None:
        try:
            self.traffic.one()
        finally:
            self.room.release()
