"""Requests to Candor, each over a connection of its own."""

from __future__ import annotations

import base64
import http.client
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL = "candor-mini"
CHAT, FEEDBACK = "/v1/chat/completions", "/v1/feedback"
PHOTOS = Path(__file__).resolve().parents[1] / "fixtures/photos"
Address = tuple[str, int]


@dataclass
class Reply:
    """A response; status 0 if it did not arrive whole, and `error` says why."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""

    def json(self) -> dict[str, Any]:
        """The body; empty if it is no object."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def code(self) -> str:
        """Code of the API's error."""
        error = self.json().get("error")
        return str(error.get("code") or "") if isinstance(error, dict) else ""


def send(
    address: Address,
    method: str,
    path: str,
    body: Any = None,
    key: str | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60,
) -> Reply:
    """Sends a request and reads its response to the end."""
    sent = {"content-type": "application/json", **(headers or {})}
    if key:
        sent["authorization"] = f"Bearer {key}"
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    except (OSError, http.client.HTTPException) as error:
        return Reply(0, error=repr(error))
    finally:
        connection.close()


def photo(name: str = "cat") -> bytes:
    """A photograph of the fixtures."""
    return (PHOTOS / f"{name}.jpg").read_bytes()


def fresh(image: bytes, serial: str) -> bytes:
    """The same photograph as a file that nobody has sent before: a comment tells them apart."""
    text = serial.encode()
    return image[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + image[2:]


def data_url(image: bytes) -> str:
    """An image as the API takes it."""
    return "data:image/jpeg;base64," + base64.b64encode(image).decode()


def question(image: bytes, text: str = "", **options: Any) -> dict[str, Any]:
    """Body of a completion about a photograph."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(image)}}]
    parts += [{"type": "text", "text": text}] if text else []
    return {"model": MODEL, "messages": [{"role": "user", "content": parts}], **options}


def judgment(comment: str, completion: str | None = None) -> dict[str, Any]:
    """Body of feedback: on an answer of the server, or on one that it brings along."""
    if completion is not None:
        return {"completion_id": completion, "label": "good", "comment": comment}
    own = {"image": data_url(photo()), "prompt": "", "response": "A dog."}
    return {**own, "label": "good", "comment": comment}


def streamed(reply: Reply) -> Reply:
    """Checks the end of a stream: status 0 if it broke off, and the API's status for an error."""
    if reply.status != 200:
        return reply
    events = [line[6:] for line in reply.body.split(b"\n") if line.startswith(b"data: ")]
    if any(b'"error"' in event[:10] for event in events):
        return Reply(0, reply.headers, reply.body, "error event")
    if not events or events[-1].strip() != b"[DONE]":
        return Reply(0, reply.headers, reply.body, "the stream broke off")
    return Reply(200, reply.headers, events[0])
