"""Images that ask for much, and images that are none any more."""

import pathlib
import time

import bombs
import wire
from attacks import BOTH, attack
from server import ATTACKER, PHOTOS, photo


def ask(target, image, kind="image/jpeg", path="/v1/chat/completions", timeout=60, **options):
    body = wire.chat(wire.data_url(image, kind), **options)
    return wire.request(target.server.address, "POST", path, body, key=target.key, source=ATTACKER, timeout=timeout)


@attack(variants=BOTH, quick=True)
def image_bombs(target):
    """One bomb after the other, and again as the image of a correction."""
    wrong, slowest = [], (0.0, "")
    for name, kind, make, allowed in bombs.BOMBS:
        image = make()
        url = wire.data_url(image, kind)
        start = time.monotonic()
        said = ask(target, image, kind)
        slowest = max(slowest, (time.monotonic() - start, name))
        if said.status not in ({400, 200} if allowed else {400}):
            wrong.append(f"{name}: {said.status or said.body.decode()}")
        if not target.server.alive():
            return False, f"{name} ended the server"
        judged = {"image": url, "prompt": "", "response": "A dog.", "label": "good"}
        said = wire.request(target.server.address, "POST", "/v1/feedback", judged, key=target.key, source=ATTACKER, timeout=60)
        if said.status not in ({400, 200, 201} if allowed else {400}):
            wrong.append(f"{name} in a correction: {said.status or said.body.decode()}")
    return not wrong, "; ".join(wrong) or f"{len(bombs.BOMBS)} refused or answered; the slowest, {slowest[1]}, took {slowest[0] * 1000:.0f} ms"


@attack(variants=BOTH)
def thin_crowd(target):
    """Twelve thin images at once, again and again."""
    image = bombs.png(64, 65_535)
    said = wire.repeat(target.seconds, lambda: wire.crowd(12, lambda _: ask(target, image, "image/png").status))
    seen = [status for round_ in said for status in round_]
    return set(seen) <= {400, 429}, wire.count(seen)


@attack(variants=BOTH)
def heavy_crowd(target):
    """Eight progressive images of 35 megapixels at once, each another, again and again."""
    image = bombs.jpeg_progressive(7_000, 5_000, 4, 8)
    serial = iter(range(10**9))
    # Bytes that change nothing but the file's hash.
    fresh = lambda: image[:-2] + b"\xff\xfe\0\x0a%08d" % next(serial) + b"\xff\xd9"
    said = wire.repeat(target.seconds, lambda: wire.crowd(8, lambda _: ask(target, fresh(), max_tokens=1).status))
    seen = [status for round_ in said for status in round_]
    return set(seen) <= {200, 400, 429}, wire.count(seen)


def mutate(image, rng):
    """The file with a few faults: bytes changed, cut, doubled or moved."""
    data = bytearray(image)
    for _ in range(rng.randint(1, 8)):
        at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 16, 256))
        fault = rng.randrange(6)
        if fault == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif fault == 1:
            data[at : at + length] = rng.randbytes(length)
        elif fault == 2:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xd9", b"\xff\xda"))
        elif fault == 3:
            del data[at : at + length]
        elif fault == 4:
            data[at:at] = data[at : at + length]
        else:
            # Heads are where the sizes stand.
            data[rng.randrange(min(len(data), 64))] = rng.randrange(256)
        if not data:
            return b""
    return bytes(data) if rng.randrange(8) else bytes(data[: rng.randrange(len(data))])


@attack(variants=BOTH, quick=True)
def mutated_images(target):
    """Photographs and the fixtures of odd images with random faults."""
    folders = [PHOTOS, PHOTOS.parent / "images"]
    files = sorted(path for folder in folders for path in pathlib.Path(folder).iterdir() if path.suffix in (".jpg", ".png", ".gif", ".webp", ".bmp"))
    images = [image for image in (path.read_bytes() for path in files) if len(image) < 200_000] + [photo()]
    number = 300 if target.quick else 3000
    made = [mutate(target.rng.choice(images), target.rng) for _ in range(number)]
    end = time.monotonic() + 4 * target.seconds
    seen = wire.crowd(8, lambda i: [ask(target, image, max_tokens=1).status for image in made[i::8] if time.monotonic() < end])
    seen = [status for part in seen for status in part]
    return set(seen) <= {200, 400, 429} and seen.count(429) < len(seen) / 2, f"{len(seen)} images: {wire.count(seen)}"
