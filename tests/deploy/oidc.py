"""deploy/oidc: a real nginx in front of Candor. No registry has oauth2-proxy: a few lines that
answer as it does to nginx, 202 with the person's address or 401, stand in for it."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import image
from compose import wait
from container import Container
from dockerfile import ROOT
from report import Report, Skipped

FOLDER = ROOT / "deploy/oidc"
PERSON = "ada@example.org"
STAND_IN = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        session = self.headers.get("Cookie", "").removeprefix("session=")
        self.send_response(202 if session else 401)
        self.send_header("X-Auth-Request-Email", session)
        self.end_headers()
HTTPServer(("127.0.0.1", 4180), Answer).serve_forever()
"""


def settings() -> None:
    """oauth2-proxy's file is TOML, fits nginx's, and holds no secret."""
    found = tomllib.loads((FOLDER / "oauth2-proxy.cfg").read_text())
    conf = (FOLDER / "candor.conf").read_text()
    assert f"http://{found['http_address']}" in conf
    assert found["set_xauthrequest"] and found["reverse_proxy"] and found["cookie_secure"]
    assert not [name for name in found if name.endswith("_secret")]
    assert "server_name candor.example.org" in conf
    assert found["redirect_url"] == "https://candor.example.org/oauth2/callback"


def prepare(folder: Path, key: str) -> Path:
    """The file of the repository with folders of this test."""
    folder.mkdir()
    pair = ["-keyout", str(folder / "candor.key"), "-out", str(folder / "candor.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
        + ["-subj", "/CN=candor.example.org", *pair],
        check=True,
        capture_output=True,
    )
    (folder / "candor-keys.map").write_text(f'"{PERSON}" "{key}";\n')
    conf = (FOLDER / "candor.conf").read_text()
    conf = conf.replace("/etc/nginx/tls", str(folder)).replace("/etc/nginx", str(folder))
    (folder / "candor.conf").write_text(conf)
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = folder / "nginx.conf"
    whole.write_text(
        f"daemon off; user root; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {places} include {folder}/candor.conf; }}\n"
    )
    return whole


def people_and_programs(container: Container) -> str:
    if shutil.which("nginx") is None:
        raise Skipped("nginx is not installed")
    first = container.image.entrypoint
    key = container.run([*first, "keys", "new"]).stdout.splitlines()[0]
    whole = prepare(container.temporary / "nginx", key)
    command = [*first, "serve", "--listen", "127.0.0.1:8080"]
    env = {"CANDOR_API_KEY": key, "CANDOR_SERVER__ALLOWED_HOSTS": "candor.example.org"}
    host = {"host": "candor.example.org"}
    session = host | {"cookie": f"session={PERSON}"}
    stranger = host | {"cookie": "session=eve@example.org"}
    base = "https://127.0.0.1"
    models = f"{base}/v1/models"
    with (
        container.mounted(image.volumes(container)),
        container.running(command, env) as server,
        container.beside(sys.executable, "-c", STAND_IN),
        container.beside("nginx", "-e", "stderr", "-c", str(whole)),
    ):
        server.wait_until_healthy()
        wait(lambda: container.fetch(models, headers=host)[0] == 302, "nginx")
        assert container.fetch(models, headers=session)[0] == 200, "a person with a key"
        assert container.fetch(models, headers=stranger)[0] == 401, "a person without one"
        assert container.fetch(models, key, headers=host)[0] == 200, "a program with a key"
        wrong = "candor-wrong-0123456789"
        assert container.fetch(models, wrong, headers=host)[0] == 401, "a program with another"
        assert container.fetch(models, wrong, headers=session)[0] == 401, "the key counts"
        for place in ("/metrics", "/admin/models", "/oauth2/auth"):
            assert container.fetch(base + place, key, headers=session)[0] == 404, place
        url = f"{base}/v1/chat/completions"
        asked = image.question() | {"stream": True}
        status, text = container.fetch(url, body=asked, headers=session)
        assert status == 200 and text.rstrip().endswith("data: [DONE]"), text[:300]
        assert server.stop() == 0
    return "nginx is real, oauth2-proxy is not"


def check(report: Report, container: Container | None) -> None:
    report.run("OIDC: settings of oauth2-proxy", settings)
    if container is not None and container.image.entrypoint:
        report.run("OIDC: people and programs", lambda: people_and_programs(container))
