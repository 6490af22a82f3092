"""How long a rollback takes: the command itself, and until the server answers with the old version. Standard library alone.

python3 tests/reference/rollback_time.py [--candor target/release/candor] [--rounds 15]
"""

import argparse
import base64
import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO = ROOT / "tests/fixtures/photos/cat.jpg"


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--candor", default=str(ROOT / "target/release/candor"))
    arguments.add_argument("--rounds", type=int, default=15)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(str(pathlib.Path(given.candor).resolve()), given.rounds, pathlib.Path(folder))


def measure(candor, rounds, folder):
    def models(*what):
        return subprocess.run([candor, "models", *what], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    bundle = folder / "other"
    shutil.copytree(ROOT / "models/candor-mini", bundle)
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "version": "other"}))
    old, new = models("register", "candor-mini"), models("register", str(bundle))
    server = subprocess.Popen([candor, "serve", "--listen", "127.0.0.1:0"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = server.stdout.readline().split()[-1]
        models("promote", old)
        wait(url, old)
        command, served = [], []
        for _ in range(rounds):
            models("promote", new)
            wait(url, new)
            begun = time.perf_counter()
            rollback = subprocess.Popen([candor, "models", "rollback"], cwd=folder, stdout=subprocess.DEVNULL)
            rollback.wait()
            command.append(time.perf_counter() - begun)
            wait(url, old)
            served.append(time.perf_counter() - begun)
            assert rollback.returncode == 0
    finally:
        server.terminate()
        server.wait()
    for name, times in [("the command", command), ("until the old version answers", served)]:
        print(f"{name}: median {1000 * statistics.median(times):.0f} ms, longest {1000 * max(times):.0f} ms of {len(times)}")


def wait(url, version):
    """Asks until that version answers."""
    image = "data:image/jpeg;base64," + base64.b64encode(PHOTO.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": image}}]
    body = {"model": "candor-mini", "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    while True:
        with urllib.request.urlopen(request) as answer:
            if json.load(answer)["system_fingerprint"] == f"fp_{version}":
                return


main()
