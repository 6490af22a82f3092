"""Compares Candor with other engines on the same checkpoints, machine and run: python3 tools/bench_peers/run.py --help"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

from engines import Failure, start

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("candor", "llama.cpp", "llama-server", "mistralrs", "transformers")
# Checkpoints of checkpoints.py: whether a GGUF file, whether it takes images, and the formats that an engine may hold
# it in, of which the fastest is shown. Files in f32 are not rounded to less.
MODELS = {
    "smollm2-q4_1": {"gguf": True, "image": False, "family": "llama", "dtypes": {"transformers": ("float32", "bfloat16")}},
    "smollm2-f32": {"gguf": False, "image": False, "family": "llama", "dtypes": {}},
    "smolvlm-256m-bf16": {"gguf": False, "image": True, "family": "smolvlm",
                          "dtypes": dict.fromkeys(("transformers", "mistralrs"), ("bfloat16", "float32"))},
    "llava-300m-bf16": {"gguf": False, "image": True, "family": "llava",
                        "dtypes": dict.fromkeys(("transformers", "mistralrs"), ("bfloat16", "float32"))},
}
PHOTOS = sorted((ROOT / "tests/fixtures/photos").glob("*.jpg"))
ANIMALS = ("dog", "cat", "horse", "fox", "bear", "crow", "whale", "mouse", "goat", "frog", "swan", "wolf", "hare", "owl", "seal", "deer")


class Prompts:
    """Prompts that no engine has seen, the same for all of them."""

    def __init__(self):
        self.count = 0

    def stories(self, n):
        self.count += 1
        return [{"text": f"{self.count} {i}: Tell me a long story about a small {ANIMALS[i]}."} for i in range(n)]

    def photograph(self, folder):
        """A photograph with a corner of its own color, as a file; two questions about it."""
        from PIL import Image

        self.count += 1
        with Image.open(PHOTOS[self.count % len(PHOTOS)]) as image:
            image = image.convert("RGB")
        image.paste((self.count * 37 % 256, self.count * 101 % 256, self.count * 59 % 256), (0, 0, 24, 24))
        path = Path(folder, f"{self.count}.jpg")
        image.save(path, quality=92)
        return [{"text": text, "image": str(path)} for text in ("What is in this photograph?", "Which colors are there, and where?")]


def read_bandwidth(threads, cores, seconds=0.4):
    """GB/s that `threads` threads read together from 256 MiB each: the best of some ways to read them."""
    import numpy as np

    os.sched_setaffinity(0, cores)
    arrays = [np.ones(1 << 25, np.float64) for _ in range(threads)]
    best = 0.0
    for way in (np.add.reduce, np.maximum.reduce, lambda a: np.dot(a, a), lambda a: np.bitwise_or.reduce(a.view(np.int64))):
        counts, over = [0] * threads, time.perf_counter() + seconds

        def work(i):
            while time.perf_counter() < over:
                way(arrays[i])
                counts[i] += 1

        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, sum(counts) * arrays[0].nbytes / (time.perf_counter() - begin) / 1e9)
    return best


def decoder_weights(folder, gguf):
    """Number of the language model's weights that a token needs, and their bytes in the files."""
    sizes = {}
    if gguf:
        from gguf import GGUFReader

        sizes = {tensor.name: (int(tensor.n_elements), int(tensor.n_bytes)) for tensor in GGUFReader(folder / "model.gguf").tensors}
    else:
        for file in folder.glob("*.safetensors"):
            with open(file, "rb") as stream:
                header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
            for name, tensor in header.items():
                if name != "__metadata__":
                    begin, end = tensor["data_offsets"]
                    sizes[name] = (end - begin) // {"F32": 4}.get(tensor["dtype"], 2), end - begin
    # A table of embeddings is read as a whole only if it is the head, too.
    own_head = any(name.endswith(("lm_head.weight", "output.weight")) and "attn" not in name for name in sizes)
    skip = ("vision", "connector", "projector") + (("embed_tokens", "token_embd") if own_head else ())
    kept = [size for name, size in sizes.items() if not any(part in name for part in skip)]
    return sum(n for n, _ in kept), sum(size for _, size in kept)


class Contender:
    """An engine with a checkpoint, what was measured of it, and the failure that ended its part."""

    def __init__(self, name, settings, engine):
        self.name, self.settings, self.engine = name, settings, engine
        self.rows, self.memory, self.failures, self.sample = {}, {}, {}, None

    def turn(self, jobs, tokens):
        seconds, counts, _ = self.engine.ask(jobs, tokens)
        return seconds, sum(counts)

    def decode(self, short, long, tokens):
        """Tokens a second while all are decoding: by the difference between answers of one token and long ones."""
        first, ones = self.turn(short, 1)
        whole, many = self.turn(long, tokens)
        if whole <= first or many <= ones:
            raise Failure(f"{many} tokens in {whole:.2f} s after {ones} in {first:.2f} s")
        return {"decode": (many - ones) / (whole - first), "whole": many / whole, "first_s": first, "tokens": many, "seconds": whole}

    def measure(self, what, work):
        """One round of one measure; an engine that fails it once is not asked again."""
        if what in self.failures:
            return
        self.engine.resume()
        try:
            self.turn([{"text": "Hello."}], 2)
            row = work()
            self.rows.setdefault(what, []).append(row)
        except Failure as failure:
            self.failures[what] = str(failure)
        finally:
            self.engine.halt()


def say(text):
    """Progress, apart from the results."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def choose(name, model, spec, options):
    """The engine with the format of weights that decodes fastest, halted."""
    candidates = spec["dtypes"].get(name, (None,))
    found = []
    for dtype in candidates:
        say(f"{name} loads {Path(model['dir']).name}" + (f" as {dtype}" if dtype else ""))
        engine = start(name, model, {"dtype": dtype}, options)
        contender = Contender(name, {"dtype": dtype}, engine)
        contender.memory["empty"], contender.memory["loaded"] = engine.empty, engine.memory()
        try:
            prompts = Prompts()
            contender.turn(prompts.stories(1), 8)
            speed = max(contender.decode(prompts.stories(1), prompts.stories(1), 24)["decode"] for _ in range(2))
        except Failure:
            engine.end()
            if dtype == candidates[-1] and not found:
                raise
            continue
        engine.halt()
        found.append((speed, contender))
    found.sort(key=lambda item: -item[0])
    for _, slower in found[1:]:
        slower.engine.end()
    found[0][1].settings["tried"] = {contender.settings["dtype"]: speed for speed, contender in found if contender.settings["dtype"]}
    return found[0][1]


def compare(key, options):
    """All engines on one checkpoint; a dictionary for the table and the JSON file."""
    spec, folder = MODELS[key], options.checkpoints / key
    model = {"dir": str(folder), **{name: spec[name] for name in ("gguf", "image", "family")}}
    weights, size = decoder_weights(folder, spec["gguf"])
    contenders, absent = [], {}
    for name in options.engines:
        try:
            contenders.append(choose(name, model, spec, options))
        except Failure as failure:
            absent[name] = str(failure)
            print(f"{key}: {name} {failure}", flush=True)
    bandwidth = []
    try:
        with tempfile.TemporaryDirectory() as photographs:
            rounds(contenders, spec, photographs, bandwidth, options)
    finally:
        for contender in contenders:
            contender.memory["after"] = contender.engine.memory()
            contender.engine.end()
    return {"model": key, "weights": weights, "bytes": size, "read_gb_per_s": statistics.median(bandwidth), "absent": absent, "bandwidth": bandwidth,
            "engines": {c.name: {"version": c.engine.version, "settings": c.settings, "memory_mib": c.memory, "failures": c.failures,
                                 "sample": c.sample, "rounds": c.rows} for c in contenders}}


def rounds(contenders, spec, photographs, bandwidth, options):
    prompts = Prompts()
    # The first round warms everything up.
    for number in range(options.repeats + 1):
        say(f"round {number} of {options.repeats}")
        bandwidth.append(read_bandwidth(options.threads, options.cores))
        order = contenders[number % len(contenders) :] + contenders[: number % len(contenders)] if contenders else []
        for at_once in options.at_once:
            short, long = prompts.stories(at_once), prompts.stories(at_once)
            for contender in order:
                contender.measure(str(at_once), lambda: contender.decode(short, long, options.tokens))
        if spec["image"]:
            questions = prompts.photograph(photographs)
            for contender in order:
                contender.measure("image", lambda: {"first_s": contender.turn(questions[:1], 1)[0], "second_s": contender.turn(questions[1:], 1)[0]})
    for contender in contenders:
        for values in contender.rows.values():
            del values[0]
        contender.engine.resume()
        try:
            contender.sample = contender.engine.ask([{"text": "Tell me a long story about a small dog."}], 48)[2][0]
        except Failure as failure:
            contender.failures["sample"] = str(failure)
        contender.engine.halt()


def median(values):
    return statistics.median(values) if values else float("nan")


def ratio(ours, theirs, key):
    """The median of the ratios within each round."""
    return median([a[key] / b[key] for a, b in zip(ours, theirs) if b[key]])


def agreement(text, other):
    """Share of the shorter text that both begin with."""
    same = next((i for i, (a, b) in enumerate(zip(text, other)) if a != b), min(len(text), len(other)))
    return same / max(min(len(text), len(other)), 1)


def show(result, options):
    print(f"\n{result['model']}: {result['weights'] / 1e6:.0f} million weights a token, {result['bytes'] / 1e6:.0f} MB in the file;"
          f" {options.threads} threads read {result['read_gb_per_s']:.1f} GB/s")
    engines = result["engines"]
    base = engines.get("candor", {}).get("rounds", {})
    counts = [str(n) for n in options.at_once]
    head = ["engine", *[f"{n} at once, tok/s" for n in counts], *[f"{n} : 1" for n in counts[1:]], *[f"candor ×, {n}" for n in counts],
            "read", "MiB loaded", "MiB after", "of these empty", "same text"]
    image = any("image" in engine["rounds"] for engine in engines.values())
    head += ["1st question", "2nd question", "2nd : 1st"] if image else []
    rows = []
    reference = engines.get("transformers", engines.get("candor", {})).get("sample")
    for name, engine in engines.items():
        of = engine["rounds"]
        speeds = {n: median([value["decode"] for value in of.get(n, [])]) for n in counts}
        dtype = engine["settings"].get("dtype")
        size = result["weights"] * {"float32": 4, "bfloat16": 2}[dtype] if dtype else result["bytes"]
        memory = engine["memory_mib"]
        row = [name + (f" ({dtype})" if dtype else ""), *[f"{speeds[n]:.1f}" for n in counts],
               *[f"{speeds[n] / speeds[counts[0]]:.2f}" for n in counts[1:]],
               *["" if name == "candor" or n not in base else f"{ratio(base[n], of.get(n, []), 'decode'):.2f}" for n in counts],
               f"{speeds[counts[0]] * size / 1e9 / result['read_gb_per_s']:.0%}", *[f"{memory[at]['pss']:.0f}" for at in ("loaded", "after", "empty")],
               f"{agreement(engine['sample'] or '', reference or ''):.0%}"]
        if image:
            shots = of.get("image", [])
            row += [f"{median([s['first_s'] for s in shots]):.2f} s", f"{median([s['second_s'] for s in shots]):.2f} s",
                    f"{median([s['second_s'] / s['first_s'] for s in shots]):.2f}"]
        rows.append(["-" if cell.startswith("nan") else cell for cell in row])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))))
    for name, failure in result["absent"].items():
        print(f"  {name}: {failure}")
    for name, engine in engines.items():
        for what, failure in engine["failures"].items():
            print(f"  {name}, {what}: {failure}")


def machine(options):
    info = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), platform.machine())
    flags = next((line for line in info if line.startswith("flags")), "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags]
    return {"cpu": name, "flags": wide, "cores": sorted(options.cores), "threads": options.threads, "load_before": os.getloadavg()[0],
            "python": platform.python_version()}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, help="folder that checkpoints.py wrote")
    parser.add_argument("--candor", type=Path, default=ROOT / "target/release/candor", help="default: target/release/candor, else that of PATH")
    parser.add_argument("--llama-server", help="a llama-server built for this machine, compared too")
    parser.add_argument("--engines", default=",".join(ENGINES), help="default: %(default)s")
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--at-once", default="1,4,16", help="numbers of requests at once; default: %(default)s")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a long answer; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="threads of each engine, on as many cores; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="one round, short answers: whether everything runs")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    options = parser.parse_args()
    options.engines, options.models = options.engines.split(","), options.models.split(",")
    for given, known in ((options.engines, ENGINES), (options.models, MODELS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    options.at_once = sorted(int(n) for n in options.at_once.split(","))
    if not 1 <= options.at_once[0] <= options.at_once[-1] <= len(ANIMALS):
        parser.error(f"--at-once takes numbers from 1 to {len(ANIMALS)}")
    if options.quick:
        options.repeats, options.tokens = 1, 24
    cores = sorted(os.sched_getaffinity(0))
    if options.threads > len(cores):
        parser.error(f"--threads {options.threads}, but there are {len(cores)} cores")
    options.cores, options.seats = set(cores[: options.threads]), options.at_once[-1]
    if not options.candor.exists():
        options.candor = Path(shutil.which("candor") or options.candor)
    options.candor, options.checkpoints = options.candor.resolve(), options.checkpoints.resolve()
    if not options.llama_server:
        options.engines = [name for name in options.engines if name != "llama-server"]
    if "candor" in options.engines and not options.candor.exists():
        parser.error(f"{options.candor} does not exist; build it or name it with --candor")
    return options


def main():
    options = arguments()
    about, results = machine(options), []
    print(f"{about['cpu']} ({', '.join(about['flags'])}), cores {about['cores']}, load before {about['load_before']:.2f}")
    for key in options.models:
        if not (options.checkpoints / key).is_dir():
            print(f"{key}: not in {options.checkpoints}; checkpoints.py writes it")
            continue
        options.port = free_port()
        results.append(compare(key, options))
        show(results[-1], options)
        if options.json:
            options.json.write_text(json.dumps({"machine": about, "tokens": options.tokens, "repeats": options.repeats, "results": results}, indent=2))


if __name__ == "__main__":
    main()
