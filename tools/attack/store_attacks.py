"""The store of corrections and receipts: filled, flooded, and its process killed."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import tempfile
import threading
import time

import wire
from attacks import attack
from server import ATTACKER, Server, photo

CHAT = "/v1/chat/completions"


def correction(image, comment):
    return {"image": wire.data_url(image), "prompt": "", "response": "A dog.", "label": "good", "comment": comment}


def listed(server):
    """The comments of all records that there are."""
    comments, path = set(), "/v1/feedback?limit=100"
    for _ in range(10_000):
        page = server.ask("GET", path).json()
        comments |= {record.get("comment") for record in page.get("data", [])}
        if not page.get("has_more") or not page.get("data"):
            break
        path = f"/v1/feedback?limit=100&after={page['data'][-1]['id']}"
    return comments


@attack(watched=False, quick=True)
def kills(target):
    """kill -9 in the middle of corrections, five times; what was acknowledged must be there."""
    server = Server(target.program)
    acknowledged, lock, image = set(), threading.Lock(), photo()
    try:
        for round_ in range(5):
            over = threading.Event()

            def write(writer):
                serial = 0
                while not over.is_set():
                    comment = f"{round_}-{writer}-{serial}"
                    if server.ask("POST", "/v1/feedback", correction(image, comment), timeout=5).status in (200, 201):
                        with lock:
                            acknowledged.add(comment)
                    serial += 1

            writers = [threading.Thread(target=write, args=(i,)) for i in range(8)]
            for writer in writers:
                writer.start()
            time.sleep(0.4 + 0.3 * target.rng.random())
            server.kill()
            over.set()
            for writer in writers:
                writer.join()
            server.process.stdout.close()
            server.start()
        lost = acknowledged - listed(server)
        return not lost and len(acknowledged) > 0, f"{len(lost)} of {len(acknowledged)} acknowledged corrections lost in 5 kills"
    finally:
        server.clean()


def no_larger_files():
    """Files of at most 1 MiB, and an error instead of a signal beyond that."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


@attack(watched=False)
def full_disk(target):
    """Corrections until the disk is full: captions go on, and corrections when there is room again."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True).returncode == 0
        # Without a small disk, small files stand in for it.
        server = Server(target.program, folder=folder, prepare=None if mounted else no_larger_files)
        try:
            image, seen, captions = photo(), [], []
            for i in range(400):
                fresh = image[:2] + b"\xff\xfe\x40\x02%08d" % i + os.urandom(0x4002 - 10).replace(b"\xff", b"\xfe") + image[2:]
                said = server.ask("POST", "/v1/feedback", correction(fresh, "a" * 4000), timeout=20)
                seen.append(said.status)
                captions.append(server.ask("POST", CHAT, wire.chat(image, max_tokens=1)).status if i % 20 == 0 or said.status >= 500 else 200)
                if seen.count(503) + seen.count(507) + seen.count(500) > 20:
                    break
            full = [status for status in seen if status not in (200, 201)]
            wrong = [f"{status} when the disk was full" for status in set(full) - {503, 507}]
            wrong += [f"captions: {wire.count(captions)}"] if set(captions) != {200} else []
            wrong += ["the server ended"] if not server.alive() else []
            again = "not tried"
            if mounted:
                subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True, capture_output=True)
                again = wire.repeat(12, lambda: (time.sleep(0.5), server.ask("POST", "/v1/feedback", correction(image, "again")).status)[1])[-1]
                wrong += [f"{again} when there was room again"] if again not in (200, 201) else []
            if not full:
                return None, "skipped: the disk could not be filled"
            return not wrong, "; ".join(wrong) or f"{len(seen) - len(full)} corrections fitted, then {wire.count(full)}; with room again: {again}"
        finally:
            server.clean()
            if mounted:
                subprocess.run(["umount", folder], capture_output=True)


def size(folder):
    """MiB of all files in a folder."""
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file()) >> 20


@attack()
def receipts_flood(target):
    """Small photographs with 7 MB behind their end, as fast as one client can."""
    image, sent = photo(), [0]
    tail = os.urandom(1 << 20) * 7
    end = time.monotonic() + target.seconds

    def client(writer):
        seen, serial = [], 0
        while time.monotonic() < end:
            fresh = image[:2] + b"\xff\xfe\0\x0e%04d%08d" % (writer, serial) + image[2:] + tail
            body = json.dumps(wire.chat(fresh, max_tokens=1))
            seen.append(wire.request(target.server.address, "POST", CHAT, body, key=target.key, source=ATTACKER).status)
            sent[0] += len(fresh) >> 20
            serial += 1
        return seen

    seen = [status for each in wire.crowd(4, client) for status in each]
    time.sleep(1)
    kept = size(target.server.folder)
    return kept < max(sent[0] // 10, 20) and set(seen) <= {200, 429}, f"{sent[0]} MiB sent, {kept} MiB kept ({wire.count(seen)})"
