"""HTTP as clients speak it, and as they should not."""

import base64
import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

MODEL = "candor-mini"


class Reply(NamedTuple):
    """A response; status 0: none came, and `body` says why."""

    status: int
    headers: dict
    body: bytes

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    def message(self):
        value = self.json()
        error = value.get("error") if isinstance(value, dict) else None
        return str(error.get("message", "")) if isinstance(error, dict) else ""


def request(address, method, path, body=None, key=None, source=None, timeout=30, headers=()):
    """Sends one request over a connection of its own."""
    if body is not None and not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    sent = {"content-type": "application/json", **dict(headers)}
    if key:
        sent["authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection(*address, timeout=timeout, source_address=source and (source, 0))
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    except (OSError, http.client.HTTPException) as error:
        return Reply(0, {}, repr(error).encode())
    finally:
        connection.close()


def data_url(image, kind="image/jpeg"):
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def chat(image, text="", **options):
    """A request for a chat completion about an image: the bytes of a file, or a URL."""
    url = image if isinstance(image, str) else data_url(image)
    parts = [{"type": "image_url", "image_url": {"url": url}}] + ([{"type": "text", "text": text}] if text else [])
    return {"model": MODEL, "messages": [{"role": "user", "content": parts}], **options}


def connect(address, source=None, timeout=10, receive_buffer=None):
    """Opens a connection; `receive_buffer` bounds what it takes before anybody reads."""
    made = socket.socket()
    if receive_buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # Small segments keep the sender's buffer small too.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    made.settimeout(timeout)
    if source:
        made.bind((source, 0))
    made.connect(address)
    return made


def head(method, path, host, key=None, **headers):
    """The head of a request, as bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def exchange(address, data, source=None, timeout=5, half_close=False):
    """Sends bytes as they are and returns what comes until the other side closes or nothing comes any more."""
    received = b""
    try:
        with connect(address, source, timeout) as made:
            made.sendall(data)
            if half_close:
                made.shutdown(socket.SHUT_WR)
            while piece := made.recv(65536):
                received += piece
    except OSError:
        pass
    return received


def statuses(received):
    """The statuses of the responses in a row of bytes."""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


def crowd(number, work):
    """Runs `work(i)` for i in 0..number, all at once."""
    with ThreadPoolExecutor(max(number, 1)) as pool:
        return list(pool.map(work, range(number)))


def repeat(seconds, work):
    """Runs `work` again and again for some seconds; what it returned."""
    end, results = time.monotonic() + seconds, []
    while time.monotonic() < end:
        results.append(work())
    return results


def count(values):
    """How often each value comes, most frequent first, in words."""
    tally = {}
    for value in values:
        tally[value] = tally.get(value, 0) + 1
    return ", ".join(f"{number}×{value}" for value, number in sorted(tally.items(), key=lambda item: -item[1]))
