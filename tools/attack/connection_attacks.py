"""Connections that are kept, and bytes that do not come, are not taken, or are no HTTP."""

import json
import socket
import time

import wire
from attacks import BOTH, attack
from server import ATTACKER, photo

CHAT = "/v1/chat/completions"


def open_many(target, number):
    """So many connections, or as many as can be had at once."""
    made = []
    for _ in range(number):
        try:
            made.append(wire.connect(target.server.address, ATTACKER, timeout=2))
        except OSError:
            break
    return made


def ended(connection):
    """Whether the other side has closed, or has said something."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def close(connections):
    for connection in connections:
        connection.close()


@attack(variants=BOTH)
def idle_connections(target):
    """1,100 connections on which nothing is said."""
    made = open_many(target, 1100)
    time.sleep(target.seconds)
    opened = len(made)
    return True, f"{opened} opened, {left_open(made)} open after {target.seconds} s"


def drip(target, connections, piece):
    """Sends a piece over each connection every second; those that still take it at the end."""
    end = time.monotonic() + target.seconds
    while time.monotonic() < end:
        alive = []
        for connection in connections:
            try:
                connection.setblocking(False)
                connection.send(piece)
                alive.append(connection)
            except BlockingIOError:
                alive.append(connection)
            except OSError:
                connection.close()
        connections = alive
        time.sleep(1)
    return connections


def left_open(connections):
    """How many the other side has neither answered nor closed; closes them all."""
    left = sum(not ended(connection) for connection in connections)
    close(connections)
    return left


@attack(variants=BOTH)
def slow_headers(target):
    """400 requests whose headers come a byte a second."""
    made = open_many(target, 400)
    for connection in made:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".encode())
    left = left_open(drip(target, made, b"a"))
    return True, f"{len(made)} opened, {left} open after {target.seconds} s"


@attack(variants=BOTH)
def slow_bodies(target):
    """128 requests whose bodies come a byte a second."""
    made = open_many(target, 128)
    for connection in made:
        connection.sendall(wire.head("POST", CHAT, "localhost", target.key, Content_Length=1_000_000, Content_Type="application/json"))
    left = left_open(drip(target, made, b" "))
    return True, f"{len(made)} opened, {left} open after {target.seconds} s"


@attack(variants=BOTH)
def large_bodies(target):
    """60 bodies of 15 MB at once, again and again."""
    body = json.dumps(wire.chat("data:image/jpeg;base64," + "QUJD" * (15_000_000 // 4))).encode()
    send = lambda _: wire.request(target.server.address, "POST", CHAT, body, key=target.key, source=ATTACKER, timeout=60).status
    seen = [status for round_ in wire.repeat(target.seconds, lambda: wire.crowd(60, send)) for status in round_]
    # A server that refuses early closes before everything is sent, which a client may see as 0.
    return set(seen) <= {0, 400, 413, 429, 503}, wire.count(seen)


def unread(target, number, answers):
    """Streams with so much in them that no buffer holds it, never read."""
    options = {"stream": True, "n": answers, "logprobs": True, "top_logprobs": 20, "temperature": 2.0, "seed": 1}
    body = json.dumps(wire.chat(photo("coffee"), **options)).encode()
    made = []
    for _ in range(number):
        connection = wire.connect(target.server.address, ATTACKER, receive_buffer=1024)
        connection.sendall(wire.head("POST", CHAT, "localhost", target.key, Content_Length=len(body), Content_Type="application/json") + body)
        made.append(connection)
    time.sleep(target.seconds)
    begun = sum(connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200" for connection in made)
    close(made)
    return begun > 0, f"{begun} of {number} streams begun, none read for {target.seconds} s"


@attack(variants=BOTH)
def unread_streams(target):
    """32 streams that are never read."""
    return unread(target, 32, 2)


@attack(config="[server]\nmax_concurrent = 4\n", variants=BOTH)
def unread_streams_of_few(target):
    """4 streams that are never read, where only 4 requests are served at once."""
    return unread(target, 4, 4)


@attack()
def endless_pipeline(target):
    """Requests over 50 connections without an end whose responses are never read."""
    made = open_many(target, 50)
    request = wire.head("GET", "/v1/models", "localhost", target.key) * 50
    left = drip(target, made, request)
    close(left)
    return True, f"{len(left)} of {len(made)} connections open after {target.seconds} s"


def shapes(target):
    """Name, bytes, whether the client closes its side, and what statuses it may get; the empty list: closed without a word."""
    key, body = target.key, json.dumps(wire.chat(photo(), max_tokens=4)).encode()
    host = "%s:%d" % target.server.address
    ask = lambda **headers: wire.head("POST", CHAT, host, key, Content_Type="application/json", **headers)
    auth = f"Authorization: Bearer {key}\r\n" if key else ""
    get = lambda lines: f"GET /v1/models HTTP/1.1\r\n{lines}{auth}Connection: close\r\n\r\n".encode()
    whole = ask(Content_Length=len(body), Connection="close") + body
    smuggled = wire.head("GET", "/smuggled", host)
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    refused, answered = [[400], []], [[200]]
    return [
        ("a request", whole, False, answered),
        # The server finds out by a word in between whether the client has left.
        ("half-closed", whole, True, [*answered, [100, 200]]),
        ("chunked", ask(Transfer_Encoding="chunked", Connection="close") + chunked, False, answered),
        ("three pipelined", get(f"Host: {host}\r\n").replace(b"Connection: close\r\n", b"") * 2 + get(f"Host: {host}\r\n"), False, [[200] * 3]),
        ("a length and chunks", ask(Transfer_Encoding="chunked", Content_Length=4) + b"0\r\n\r\n" + smuggled, False, refused),
        ("two lengths", ask(Content_Length=f"4\r\nContent-Length: {len(body)}") + body, False, refused),
        ("a length with a sign", ask(Content_Length="+4") + b"abcd" + smuggled, False, refused),
        ("a negative length", ask(Content_Length="-1") + smuggled, False, refused),
        ("a huge length", ask(Content_Length="99999999999999999999") + smuggled, False, [[400], [413], []]),
        ("an unknown coding", ask(Transfer_Encoding="chunked, identity") + b"0\r\n\r\n" + smuggled, False, [*refused, [501]]),
        ("chunked twice", ask(Transfer_Encoding="chunked, chunked") + b"0\r\n\r\n" + smuggled, False, [*refused, [501], [400, 404]]),
        ("a space before the colon", get(f"Host: {host}\r\nTransfer-Encoding : chunked\r\n"), False, refused),
        ("a folded header", get(f"Host: {host}\r\nX-A: b\r\n c\r\n"), False, refused),
        ("a NUL in a header", get(f"Host: {host}\r\nX-A: b\0c\r\n"), False, refused),
        ("a chunk of no number", ask(Transfer_Encoding="chunked") + b"zz\r\nab\r\n0\r\n\r\n", False, refused),
        ("a chunk of 2^64", ask(Transfer_Encoding="chunked") + b"ffffffffffffffffff\r\nab", False, [*refused, [413]]),
        ("endless chunk extensions", ask(Transfer_Encoding="chunked") + b"1;" + b"a" * 200_000, True, refused),
        ("no Host", get(""), False, [[400]]),
        ("two Hosts", get(f"Host: {host}\r\nHost: {host}\r\n"), False, [[400]]),
        ("a rebound Host", get("Host: evil.example\r\n"), False, [[400], [403], [421]]),
        ("a rebound Host with the port", get(f"Host: evil.example:{target.server.address[1]}\r\n"), False, [[400], [403], [421]]),
        ("an absolute target elsewhere", get(f"Host: {host}\r\n").replace(b"GET /", b"GET http://evil.example/"), False, [[200], [400], [403], [421]]),
        ("a Host that is none", get("Host: a b\r\n"), False, [[400], [403], [421]]),
        ("headers of 1 MB", get(f"Host: {host}\r\nX-A: {'a' * 1_000_000}\r\n"), False, [[431], [400], []]),
        ("10,000 headers", get(f"Host: {host}\r\n" + "X-A: a\r\n" * 10_000), False, [[431], [400], []]),
        ("a target of 100 kB", get(f"Host: {host}\r\n").replace(b"/v1/models", b"/v1/" + b"a" * 100_000), False, [[414], [431], [404], [400], []]),
        ("HTTP/2 unasked", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40), False, [[400], [505], []]),
        ("TLS", bytes.fromhex("1603010200010001fc0303") + bytes(64), False, refused),
        ("no HTTP", b"\0\1\2\3" * 100, False, refused),
        ("HTTP/0.9", b"GET /v1/models\r\n\r\n", False, refused),
        ("CONNECT", wire.head("CONNECT", "evil.example:443", "evil.example:443", Connection="close"), False, [[400], [403], [404], [405], [421]]),
        ("TRACE", wire.head("TRACE", "/v1/models", host, key, Connection="close"), False, [[404], [405]]),
        ("a compressed body", ask(Content_Length=20, Content_Encoding="gzip", Connection="close") + b"\x1f\x8b" + bytes(18), False, [[400], [415]]),
    ]


@attack(variants=BOTH, quick=True)
def http_shapes(target):
    """Requests in odd shapes: smuggled, doubled, cut, without or with another's Host."""
    cases = shapes(target)
    seen = wire.crowd(len(cases), lambda i: wire.statuses(wire.exchange(target.server.address, cases[i][1], ATTACKER, 8, cases[i][2])))
    wrong = [f"{name}: {got}" for (name, _, _, allowed), got in zip(cases, seen) if got not in allowed]
    said = wire.request(target.server.address, "GET", "/v1/models", key=target.key)
    if said.headers.get("x-content-type-options") != "nosniff" or "no-store" not in said.headers.get("cache-control", ""):
        wrong.append("no nosniff or no no-store on /v1/models")
    return not wrong, "; ".join(wrong) or f"{len(cases)} shapes refused or answered as they should be"
