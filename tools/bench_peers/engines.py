"""The engines as processes: started, asked, halted while another is measured, and ended."""

import ctypes
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from peer import message

# Limits of loading and of one turn.
LOAD_S, TURN_S = 300, 300


class Failure(Exception):
    """An engine that is not installed, does not load a checkpoint or fails a request; the text is one line."""


def bind(cores):
    """Keeps this process on the cores, and lets it end with its parent."""
    os.sched_setaffinity(0, cores)
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


class Process:
    """A process group of its own on given cores, with its memory."""

    def __init__(self, command, cores, threads, env=None, **pipes):
        self.log = tempfile.TemporaryFile()
        self.folder = tempfile.TemporaryDirectory(prefix="bench-peers-")
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
        self.process = subprocess.Popen(
            command, cwd=self.folder.name, stderr=self.log, text=True, process_group=0,
            env=os.environ | counts | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} | (env or {}),
            preexec_fn=lambda: bind(cores), **pipes)

    def signal(self, what):
        try:
            os.killpg(self.process.pid, what)
        except ProcessLookupError:
            pass

    def halt(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def end(self):
        self.resume()
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.folder.cleanup()

    def memory(self):
        """MiB: resident, and the share of it that counts each shared page once (PSS)."""
        rss = pss = 0
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and os.getpgid(int(folder.name)) == self.process.pid:
                    lines = dict(line.split(":", 1) for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
                    rss += int(lines["Rss"].split()[0])
                    pss += int(lines["Pss"].split()[0])
            except (OSError, KeyError):
                continue
        return {"rss": rss / 1024, "pss": pss / 1024}

    def told(self):
        """The last line that the process wrote to standard error."""
        self.log.seek(0)
        lines = [line.strip() for line in self.log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "no message"


class Peer(Process):
    """An engine inside peer.py."""

    def __init__(self, name, python, model, settings, options):
        command = [python, Path(__file__).with_name("peer.py"), name]
        super().__init__(command, options.cores, options.threads, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.version = self.read().get("version")
            self.empty = self.memory()
            self.write(load={"model": model, "threads": options.threads, "seats": options.seats, "dtype": settings.get("dtype")})
            self.read()
        except Failure:
            self.end()
            raise

    def write(self, **what):
        try:
            print(json.dumps(what), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise Failure(f"ended: {self.told()}") from None

    def read(self):
        if not select.select([self.process.stdout], [], [], TURN_S)[0]:
            raise Failure(f"no answer within {TURN_S} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"ended: {self.told()}")
        reply = json.loads(line)
        for kind, text in (("missing", "is not installed: "), ("error", "")):
            if kind in reply:
                raise Failure(text + " ".join(reply[kind].split()))
        return reply

    def ask(self, jobs, tokens):
        self.write(jobs=jobs, tokens=tokens)
        reply = self.read()
        return reply["seconds"], reply["tokens"], reply["texts"]


class Server(Process):
    """An HTTP server with OpenAI's API on a free port of loopback."""

    empty = {"rss": 0.0, "pss": 0.0}

    def __init__(self, command, health, options, env=None):
        super().__init__(command, options.cores, options.threads, env, stdout=subprocess.DEVNULL)
        self.port, self.pool = options.port, ThreadPoolExecutor(options.seats)
        for _ in range(LOAD_S * 20):
            if self.process.poll() is not None:
                told = self.told()
                self.end()
                raise Failure(f"ended: {told}")
            try:
                if self.request("GET", health)[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.05)
        else:
            self.end()
            raise Failure(f"not ready after {LOAD_S} s")
        self.model = json.loads(self.request("GET", "/v1/models")[1])["data"][0]["id"]

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TURN_S)
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        except TimeoutError:
            raise Failure(f"no answer within {TURN_S} s") from None
        finally:
            connection.close()

    def one(self, body):
        status, answer = self.request("POST", "/v1/chat/completions", body)
        if status != 200:
            raise Failure(f"{status}: {answer.decode(errors='replace')[:300]}")
        answer = json.loads(answer)
        return answer["usage"]["completion_tokens"], answer["choices"][0]["message"]["content"]

    def ask(self, jobs, tokens):
        bodies = [json.dumps({"model": self.model, "max_tokens": tokens, "temperature": 0, "messages": [message(job)]}) for job in jobs]
        start = time.perf_counter()
        answers = [self.one(bodies[0])] if len(jobs) == 1 else list(self.pool.map(self.one, bodies))
        return time.perf_counter() - start, [n for n, _ in answers], [text for _, text in answers]


def candor(model, settings, options):
    """`candor serve` as it is, but for the number of threads."""
    path = Path(model["dir"], "model.gguf") if model["gguf"] else model["dir"]
    command = [options.candor, "serve", "--model", path, "--listen", f"127.0.0.1:{options.port}", "--device", "cpu"]
    server = Server(command, "/health/ready", options, {"CANDOR_MODEL__THREADS": str(options.threads)})
    server.version = subprocess.run([options.candor, "--version"], capture_output=True, text=True).stdout.strip()
    return server


def llama_server(model, settings, options):
    """A llama-server of one's own build, on the same files as the engine llama.cpp."""
    folder = Path(model["dir"])
    command = [options.llama_server, "--model", folder / ("model.gguf" if model["gguf"] else "peer/model.gguf"), "--host", "127.0.0.1",
               "--port", str(options.port), "--threads", str(options.threads), "--parallel", str(options.seats), "--kv-unified",
               "--ctx-size", str(256 * options.seats), "--cache-ram", "0", "--jinja"]
    command += ["--mmproj", folder / "peer/mmproj.gguf"] if model["image"] else []
    server = Server(command, "/health", options)
    server.version = options.llama_server
    return server


def start(name, model, settings, options):
    """Starts an engine with a checkpoint.

    Raises Failure with the reason if that engine does not come up.
    """
    if name == "candor":
        return candor(model, settings, options)
    if name == "llama-server":
        return llama_server(model, settings, options)
    return Peer(name, sys.executable, model, settings, options)
