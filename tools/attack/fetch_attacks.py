"""Images by URL: into networks that are nobody's business, and from servers that mean harm."""

import gzip
import http.server
import pathlib
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import zlib

import wire
from attacks import attack
from server import ATTACKER, Server, photo

CHAT = "/v1/chat/completions"


def ask(server, url, timeout=40):
    return server.ask("POST", CHAT, wire.chat(url, max_tokens=1), who="attacker", timeout=timeout, source=ATTACKER)


class Canary:
    """Listens where nobody should come, on IPv4 and IPv6, and counts who comes."""

    def __init__(self):
        self.visits, self.sockets = 0, []
        first = socket.create_server(("127.0.0.1", 0))
        self.port = first.getsockname()[1]
        self.sockets.append(first)
        try:
            self.sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        except OSError:
            pass
        for listener in self.sockets:
            threading.Thread(target=self._listen, args=(listener,), daemon=True).start()

    def _listen(self, listener):
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return
            self.visits += 1

    def close(self):
        for listener in self.sockets:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def internal_hosts():
    """Ways to write an address that is not of the public internet; names that resolve to one stand among them."""
    yield from ["127.0.0.1", "localhost", "LOCALHOST.", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.000.000.001"]
    yield from ["0.0.0.0", "0", "127.255.255.254", "%31%32%37.0.0.1", "127。0。0。1", "①②⑦.⓪.⓪.①", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"]
    yield from ["[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fc00::1]", "[fec0::1]"]
    yield from ["[ff02::1]", "[100::1]", "[2001:db8::1]", "[::1%25lo]", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "169.254.169.254."]
    yield from ["100.64.0.1", "100.100.100.200", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"]
    yield from ["ip6-localhost", "ip6-loopback", "a.localhost", "metadata.google.internal", "127.0.0.1.nip.io", "localtest.me", socket.gethostname()]


def ssrf_urls(port):
    for host in internal_hosts():
        yield f"https://{host}:{port}/a.jpg"
    yield from [
        f"https://user@127.0.0.1:{port}/", f"https://example.com@127.0.0.1:{port}/", f"https://127.0.0.1:{port}#@example.com/", f"https:\\\\127.0.0.1:{port}/",
        f"https:127.0.0.1:{port}/", f"https:///127.0.0.1:{port}/", f"https://127.0.0.1\t:{port}/", f"\x01https://127.0.0.1:{port}/", f"https://example.com\\@127.0.0.1:{port}/",
        f"http://127.0.0.1:{port}/", f"HTTP://127.0.0.1:{port}/", f"ftp://127.0.0.1:{port}/", f"gopher://127.0.0.1:{port}/_", f"file:///etc/passwd", f"//127.0.0.1:{port}/",
        f"unix:/var/run/docker.sock", f"jar:https://127.0.0.1:{port}/!/", f"https://127.0.0.1:{port}\r\nHost: example.com/", "https://169.254.169.254/latest/meta-data/",
        "https://", "https://:443/", "https://[/", "https://a" + ".a" * 5000 + "/", "data:text/html,<script>", "data:image/jpeg;base64", f"https://127.0.0.1:{port}/" + "a" * 100_000,
    ]  # fmt: skip


@attack(config="[fetch]\nenabled = true\ntimeout_s = 3\n", quick=True)
def ssrf(target):
    """URLs of this machine, its network and its cloud, in every writing."""
    canary = Canary()
    urls = list(ssrf_urls(canary.port))
    seen = wire.crowd(8, lambda i: [(url, ask(target.server, url)) for url in urls[i::8]])
    time.sleep(0.2)
    wrong = [f"{url[:60]!r}: {said.status} {said.message()[:80]}" for part in seen for url, said in part if said.status != 400 and "nip.io" not in url]
    canary.close()
    if canary.visits:
        wrong.insert(0, f"the canary was visited {canary.visits} times")
    return not wrong, "; ".join(wrong) or f"{len(urls)} URLs refused, nobody came to the canary"


def bomb(unit=1 << 20, pieces=1024):
    """A gzip stream of 1 GiB of zeros."""
    packer, piece = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(unit)
    return b"".join([*(packer.compress(piece) for _ in range(pieces)), packer.flush()])


def hostile_site(folder):
    """An HTTPS server whose every path means harm: its server, and what trusts it."""
    pem, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=attack"]
    subprocess.run([*make, "-keyout", key, "-out", pem, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    packed = bomb()
    bodies = {
        "/gzip": ("gzip", packed),
        "/gzip-twice": ("gzip, gzip", gzip.compress(packed)),
        "/gzip-ten-times": (", ".join(["gzip"] * 10), packed),
        "/deflate": ("deflate", zlib.compress(bytes(200 << 20))),
        # A frame of zstd that says it holds 2^60 bytes, and a window of 2^41.
        "/zstd-window": ("zstd", bytes.fromhex("28b52ffd00f8") + bytes(100)),
        "/zstd-size": ("zstd", bytes.fromhex("28b52ffde0") + (1 << 60).to_bytes(8, "little") + bytes.fromhex("020000") + bytes(100)),
        "/br": ("br", bytes.fromhex("5bffffffffffff") + bytes(1000)),
        "/unknown": ("compress", photo()),
        "/false": ("gzip", photo()),
        "/cut": ("gzip", gzip.compress(photo())[:-100]),
    }

    class Site(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.close_connection = True
            path = self.path.split("?")[0]
            if path in bodies:
                coding, body = bodies[path]
                self.send_response(200)
                self.send_header("Content-Encoding", coding)
                self.send_header("Content-Type", "image/jpeg")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            elif path == "/loop":
                self.send_response(302)
                self.send_header("Location", "/loop")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path.startswith("/inside"):
                self.send_response(302)
                self.send_header("Location", path.removeprefix("/inside/").replace("!", "/"))
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path == "/endless":
                self.send_response(200)
                self.end_headers()
                while True:
                    self.wfile.write(bytes(1 << 20))
            elif path == "/headers":
                self.send_response(200)
                for i in range(100_000):
                    self.send_header(f"X-{i}", "a" * 100)
                self.end_headers()
            elif path == "/drip":
                self.send_response(200)
                self.end_headers()
                for _ in range(60):
                    self.wfile.write(b"a")
                    self.wfile.flush()
                    time.sleep(0.5)

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    site = Quiet(("127.0.0.1", 0), Site)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    return site, pem, [*bodies, "/loop", "/endless", "/headers", "/drip"]


@attack(watched=False, quick=True)
def hostile_sites(target):
    """Sites that send bodies of many GiB in few bytes, endless ones, loops, and redirections into the machine."""
    if not shutil.which("openssl"):
        return None, "skipped: there is no openssl to make a certificate with"
    with tempfile.TemporaryDirectory() as folder:
        site, pem, paths = hostile_site(pathlib.Path(folder))
        port = site.server_address[1]
        config = f'[fetch]\nenabled = true\ntimeout_s = 5\nallow = ["127.0.0.1:{port}"]\nca_file = "{pem}"\n'
        server, canary = Server(target.program, config), Canary()
        try:
            inside = [f"/inside/https:!!{host}:{canary.port}!" for host in ("127.0.0.1", "localhost", "[::1]", "169.254.169.254", "2130706433")]
            urls = [f"https://127.0.0.1:{port}{path}" for path in [*paths, *inside]]
            seen = wire.crowd(len(urls), lambda i: ask(server, urls[i]))
            more = wire.crowd(32, lambda i: ask(server, f"https://127.0.0.1:{port}/gzip?{i}"))
            wrong = [f"{url.split(str(port))[-1] or url}: {said.status} {said.message()[:80]}" for url, said in zip(urls, seen) if said.status != 400]
            wrong += [f"32 bombs at once: {wire.count(said.status for said in more)}"] if {said.status for said in more} - {400, 429} else []
            peak = server.memory("VmHWM")
            wrong += [f"the canary was visited {canary.visits} times"] if canary.visits else []
            wrong += [f"{peak} MiB were taken"] if peak > 600 or not server.alive() else []
            return not wrong, "; ".join(wrong) or f"{len(urls) + len(more)} fetches refused with at most {peak} MiB"
        finally:
            server.clean()
            canary.close()
            site.shutdown()
