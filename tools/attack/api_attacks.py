"""Requests in good form that ask for too much, or for what is somebody else's."""

import itertools
import json
import time

import wire
from attacks import BOTH, attack
from server import ATTACKER, POLITE, photo

CHAT = "/v1/chat/completions"


def ask(target, body, path=CHAT, timeout=60, **options):
    return wire.request(target.server.address, "POST", path, body, key=target.key, source=ATTACKER, timeout=timeout, **options)


def fresh_photos():
    """The photograph again and again, each time with other bytes, so that no cache has it."""
    image = photo("coffee")
    for serial in itertools.count():
        yield image[:2] + b"\xff\xfe\0\x0a%08d" % serial + image[2:]


def extremes():
    """Name, body and the statuses that it may get."""
    image = photo()
    refused, answered, either = {400}, {200}, {200, 400, 429}
    chat = lambda **options: wire.chat(image, **{"max_tokens": 8, **options})
    text = json.dumps(chat())
    yield from [
        ("top_p of 1e-45", chat(temperature=1.0, top_p=1e-45), answered),
        ("top_p of 0", chat(temperature=1.0, top_p=0.0), answered),
        ("top_p of the least double", chat(temperature=2.0, top_p=5e-324), answered),
        ("temperature of 1e-300", chat(temperature=1e-300, top_p=0.5), answered),
        ("temperature of 1e-40", chat(temperature=1e-40), answered),
        ("top_k of 2^32-1", chat(temperature=1.0, top_k=2**32 - 1), answered),
        ("top_k of 2^32", chat(temperature=1.0, top_k=2**32), refused),
        ("penalties at their ends", chat(temperature=2.0, presence_penalty=-2, frequency_penalty=-2, n=4), answered),
        ("n of 128", chat(n=128, max_tokens=2), either),
        ("n of 129", chat(n=129), refused),
        ("n of 2^63", chat(n=2**63), refused),
        ("n of -1", chat(n=-1), refused),
        ("candidates of 16 for n of 8", chat(n=8, guard={"candidates": 16}), either),
        ("a seed of 2^63-1", chat(seed=2**63 - 1, n=4, temperature=1.0), answered),
        ("a seed of -2^63", chat(seed=-(2**63), n=4, temperature=1.0), answered),
        ("a seed of 2^64", chat(seed=2**64), {200, 400}),
        ("a seed of 1e400", text.replace('"max_tokens": 8', '"seed": 1e400'), refused),
        ("a temperature of NaN", text.replace('"max_tokens": 8', '"temperature": NaN'), refused),
        ("max_tokens of 2^32-1", chat(max_tokens=2**32 - 1), answered),
        ("max_tokens of 0", chat(max_tokens=0), refused),
        ("1,000 stop strings", chat(stop=["a"] * 1000), refused),
        ("a stop string of 1 MB", chat(stop="a" * 1_000_000), refused),
        ("a stop string of an emoji's half", text.replace('"max_tokens": 8', '"stop": "\\ud83d"'), refused),
        ("JSON of 100,000 levels", "[" * 100_000, refused),
        ("objects of 100,000 levels", '{"messages":' * 100_000, refused),
        ("an unknown field of 100,000 levels", text[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}", {200, 400}),
        ("doubled fields", text[:-1] + ', "n": 1, "n": 2}', refused),
        ("a string of 15 MB", chat(user="a" * 15_000_000), refused),
        ("1,000,000 messages", text.replace('"messages": [', '"messages": [' + '{"role":"user","content":""},' * 1_000_000), {400, 413}),
        ("100,000 images", wire.chat("x") | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}] * 100_000}]}, refused),
        ("a prompt of 200 kB", wire.chat(image, "dog " * 50_000), refused),
        ("not UTF-8", b'{"model": "\xff"}', refused),
        ("UTF-16", text.encode("utf-16"), refused),
        ("an empty body", b"", refused),
        ("a number", b"1e999999", refused),
    ]


@attack(quick=True)
def api_extremes(target):
    """Values at and beyond the ends of what may be asked."""
    wrong = []
    for name, body, allowed in extremes():
        said = ask(target, body)
        if said.status not in allowed:
            wrong.append(f"{name}: {said.status} {said.message() or said.body.decode()[:80]}")
    return not wrong, "; ".join(wrong) or "every one answered or refused as it should be"


@attack(variants=BOTH)
def score_crowd(target):
    """16 requests for the scores of 64 images at once."""
    photos = fresh_photos()
    bodies = [
        json.dumps({"model": wire.MODEL, "items": [{"image_url": wire.data_url(next(photos)), "response": "A cup of coffee."} for _ in range(64)]})
        for _ in range(16)
    ]
    end = time.monotonic() + target.seconds
    seen = wire.crowd(16, lambda i: ask(target, bodies[i], "/v1/score", timeout=max(end - time.monotonic(), 1)).status)
    return set(seen) <= {0, 200, 429}, f"{wire.count(seen)} within {target.seconds} s"


@attack(variants=BOTH)
def client_crowd(target):
    """120 clients that ask for long answers about fresh photographs."""
    photos, end = fresh_photos(), time.monotonic() + target.seconds
    bodies = [json.dumps(wire.chat(next(photos), temperature=1.0)) for _ in range(240)]

    def client(i):
        seen = []
        while (left := end - time.monotonic()) > 0:
            seen.append(ask(target, bodies[(i + 120 * len(seen)) % 240], timeout=left).status)
            if seen[-1] == 429:
                time.sleep(0.05)
        return seen

    seen = [status for each in wire.crowd(120, client) for status in each]
    return set(seen) <= {0, 200, 429}, wire.count(seen)


@attack(variants=BOTH)
def regenerate_crowd(target):
    """As many answers as a request may ask for, that are written again and again."""
    body = wire.chat(photo("astronaut"), n=16, temperature=1.5, guard={"mode": "regenerate", "threshold": 0.99})
    seen = wire.repeat(target.seconds, lambda: ask(target, body, timeout=target.seconds).status)
    return set(seen) <= {0, 200, 400, 429}, wire.count(seen)


@attack()
def candidate_crowd(target):
    """Twenty clients that each ask for the best of sixteen answers."""
    body = wire.chat(photo("photographer"), temperature=1.5, guard={"candidates": 16, "mode": "regenerate", "threshold": 0.99})
    end = time.monotonic() + target.seconds

    def client(_):
        seen = []
        while (left := end - time.monotonic()) > 0:
            seen.append(ask(target, body, timeout=left).status)
            if seen[-1] != 200:
                time.sleep(0.05)
        return seen

    seen = [status for each in wire.crowd(20, client) for status in each]
    return set(seen) <= {0, 200, 400, 429}, wire.count(seen)


@attack()
def key_guessing(target):
    """Eight clients that try keys as fast as they can; the right key must go on working from elsewhere."""
    serial = itertools.count()

    def guess(_):
        key = f"guess-{next(serial):012d}"
        return wire.repeat(target.seconds, lambda: wire.request(target.server.address, "GET", "/v1/models", key=key, source=ATTACKER).status)

    seen = [status for each in wire.crowd(8, guess) for status in each]
    rate = seen.count(401) / target.seconds
    right = target.server.ask("GET", "/v1/models", source=POLITE).status
    return rate <= 20 and right == 200 and set(seen) <= {0, 401, 429}, f"{rate:.0f} guesses a second were answered ({wire.count(seen)}); the right key gets {right}"


@attack(watched=True, quick=True)
def tenants(target):
    """The attacker's key on what was made with the polite client's."""
    server, wrong = target.server, []

    def expect(what, said, *allowed):
        if said.status not in allowed:
            wrong.append(f"{what}: {said.status}")
        return said

    mine = lambda method, path, body=None: server.ask(method, path, body, who="attacker")
    # A description is asked for: it is always given.
    secret = "describe the secret"
    made = server.ask("POST", CHAT, wire.chat(photo(), secret, user="victim")).json()
    completion = made.get("id", "")
    record = server.ask("POST", "/v1/feedback", {"completion_id": completion, "label": "good", "comment": secret, "annotator": "ann"}).json().get("id", "")
    if not completion or not record:
        return False, f"nothing to attack: {made}"
    expect("a judgment of the other's answer", mine("POST", "/v1/feedback", {"completion_id": completion, "label": "good"}), 404)
    expect("an unknown answer", mine("POST", "/v1/feedback", {"completion_id": "chatcmpl-" + "0" * 32, "label": "good"}), 404)
    expect("reading the record", mine("GET", f"/v1/feedback/{record}"), 403, 404, 405)
    expect("deleting the record", mine("DELETE", f"/v1/feedback/{record}"), 404)
    expect("deleting by user", mine("DELETE", "/v1/feedback?user=victim"), 200, 204, 404)
    expect("deleting by annotator", mine("DELETE", "/v1/feedback?annotator=ann"), 200, 204, 400, 404)
    for path in ("/v1/feedback", "/v1/feedback?annotators=true", "/v1/feedback/export?format=jsonl", "/v1/agreement", "/v1/queue", "/metrics", "/openapi.json"):
        said = mine("GET", path)
        if any(word.encode() in said.body for word in (secret, record, completion, "victim")):
            wrong.append(f"{path} shows the other's record")
    expect("the export", mine("GET", "/v1/feedback/export?format=jsonl"), 200)
    expect("the queue", mine("POST", "/v1/queue/next", {"annotator": "eve"}), 403)
    expect("administration", mine("POST", "/admin/models/rollback", {}), 401, 403, 404)
    listed = server.ask("GET", "/v1/feedback")
    if record.encode() not in listed.body:
        wrong.append(f"the owner's record is gone ({listed.status})")
    expect("the owner's deletion", server.ask("DELETE", f"/v1/feedback/{record}"), 200, 204)
    return not wrong, "; ".join(wrong) or "nothing of the other's was read, changed or deleted"
