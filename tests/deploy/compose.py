"""The compose file: read by the real Docker Compose, and Candor's services run as it says."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import image
import yaml
from container import Container, Mount
from dockerfile import ROOT
from report import Report, Skipped

FILE = "deploy/compose.yaml"
FULL = ("--env-file", "deploy/full.env")
ONCE = {"key", "store-keys", "grafana-key", "bucket"}
STORE_KEYS = ("postgres", "s3")
Json = dict[str, Any]


def config(*options: str) -> Json:
    """What Docker Compose makes of the file."""
    program = Path(sys.executable).parent / "docker-compose"
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COMPOSE_", "CANDOR_"))
    }
    command = [str(program), "-f", FILE, *options, "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr.strip()
    return json.loads(done.stdout)


def profiles() -> str:
    plain, watched = config(), config("--profile", "monitoring")
    full = config(*FULL)
    assert set(plain["services"]) == {"key", "candor"}, "a plain `up` starts Candor alone"
    more = {"prometheus", "grafana-key", "grafana"}
    assert set(watched["services"]) == {"key", "candor"} | more
    assert set(full["services"]) == {"key", "candor", "postgres", "s3", *ONCE} | more
    assert plain["services"]["candor"]["environment"]["STORES"] == ""
    version = subprocess.run(
        [Path(sys.executable).parent / "docker-compose", "version", "--short"],
        capture_output=True,
        text=True,
    )
    return f"by Docker Compose {version.stdout.strip()}"


def services_are_confined() -> None:
    full = config(*FULL)
    for name, service in full["services"].items():
        assert service.get("read_only") is True, f"{name}: its root can be written to"
        assert service.get("cap_drop") == ["ALL"], f"{name}: keeps capabilities"
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service and "cap_add" not in service, name
        for port in service.get("ports", []):
            assert port.get("host_ip") == "127.0.0.1", f"{name}: published beyond this machine"
        for variable, value in service.get("environment", {}).items():
            secret = variable.endswith(("PASSWORD", "SECRET", "ACCESS_KEY", "API_KEY"))
            assert not (secret and value), f"{name}: {variable} is a secret in the file"
        if name not in ONCE:
            own = service.get("healthcheck", {})
            assert "build" in service or own.get("test"), f"{name}: no health check"
            assert service["restart"] == "unless-stopped", name
        if "build" not in service:
            tag = service["image"].rpartition(":")[2]
            assert tag not in ("latest", service["image"]), f"{name}: its version is not pinned"
    assert full["networks"]["stores"]["internal"] is True
    for name in ("postgres", "s3"):
        assert set(full["services"][name]["networks"]) == {"stores"}, name


def files_fit() -> str:
    """What is mounted exists, and names the services as they are here."""
    services = config(*FULL)["services"]
    mounted = {
        mount["target"]: Path(mount["source"])
        for service in services.values()
        for mount in service.get("volumes", [])
        if mount["type"] == "bind"
    }
    for place, source in mounted.items():
        assert source.exists(), f"{source.relative_to(ROOT)}, mounted at {place}, does not exist"
    scraped = yaml.safe_load((mounted["/etc/prometheus"] / "prometheus.yml").read_text())
    targets = [
        target
        for job in scraped["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    port = services["candor"]["environment"]["CANDOR_METRICS__LISTEN"].rpartition(":")[2]
    assert f"candor:{port}" in targets, f"Prometheus scrapes {targets}"
    provisioning = mounted["/etc/grafana/provisioning"]
    for file in (provisioning / "datasources").glob("*.y*ml"):
        for source in yaml.safe_load(file.read_text())["datasources"]:
            assert source["url"] == "http://prometheus:9090", source["url"]
    for file in (provisioning / "dashboards").glob("*.y*ml"):
        for provider in yaml.safe_load(file.read_text())["providers"]:
            assert provider["options"]["path"] in mounted, provider["options"]["path"]
    dashboards = list(mounted["/var/lib/grafana/dashboards"].glob("*.json"))
    assert dashboards, "no dashboard"
    return f"{len(mounted)} folders, {len(dashboards)} dashboards"


@dataclass
class Runner:
    """Runs services of the image that is in the container."""

    container: Container
    services: Json

    def mounts(self, service: Json) -> list[Mount]:
        found = [Mount(place.split(":")[0], "tmpfs") for place in service.get("tmpfs", [])]
        for mount in service["volumes"]:
            found.append(Mount(mount["target"], mount["source"], mount.get("read_only", False)))
        return found

    def command(self, service: Json) -> list[str]:
        """Compose takes an entrypoint of the file for all of the image's command."""
        image = self.container.image
        own = service.get("entrypoint")
        command = service.get("command") or ([] if own else image.command)
        return [word.replace("$$", "$") for word in [*(own or image.entrypoint), *command]]

    def once(self, name: str) -> str:
        service = self.services[name]
        with self.container.mounted(self.mounts(service)):
            done = self.container.run(self.command(service), user=service.get("user"))
        assert done.returncode == 0, f"{name}: {done.stderr.strip()}"
        return done.stdout

    @contextlib.contextmanager
    def serving(self) -> Iterator[Any]:
        service = self.services["candor"]
        env = {name: value or "" for name, value in service["environment"].items()}
        with (
            self.container.mounted(self.mounts(service)),
            self.container.running(self.command(service), env) as server,
        ):
            server.wait_until_healthy()
            yield server

    def secret(self, volume: str, name: str) -> str:
        return (self.container.volume(volume) / name).read_text().strip()


def candor_alone(container: Container) -> str:
    services = config()["services"]
    own = services["candor"]["command"]
    assert own == container.image.command, "the image has another command"
    runner = Runner(container, services)
    runner.once("key")
    key = runner.secret("keys", "api-key")
    runner.once("key")
    assert runner.secret("keys", "api-key") == key, "the second start made another key"
    with runner.serving() as server:
        assert container.fetch(f"{image.SERVER}/v1/models")[0] == 401
        assert container.fetch(f"{image.SERVER}/v1/models", key)[0] == 200
        status, metrics = container.fetch("http://127.0.0.1:9090/metrics")
        assert status == 200 and "candor_requests_waiting" in metrics
        assert server.stop() == 0, server.log()[-800:]
    assert (container.volume("data") / "candor-data/feedback.db").exists()
    return "with the key that its first start made"


def grafana_reads_its_password(container: Container) -> None:
    runner = Runner(container, config("--profile", "monitoring")["services"])
    printed = runner.once("grafana-key")
    grafana = runner.services["grafana"]
    place = Path(grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"])
    [mount] = [mount for mount in runner.mounts(grafana) if mount.target == str(place.parent)]
    with container.mounted([mount]):
        # The user of Grafana's image.
        read = container.run(["cat", str(place)], user="472:0", folder="/")
    assert read.returncode == 0 and len(read.stdout) > 40, read.stderr
    assert read.stdout.strip() not in printed


@contextlib.contextmanager
def postgres(container: Container, password: str) -> Iterator[None]:
    """A real server, with this machine's program."""
    found = shutil.which("initdb") or next(
        map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None
    )
    if found is None:
        raise Skipped("PostgreSQL is not installed")
    programs = Path(found).resolve().parent
    folder, file = container.temporary / "postgres", container.temporary / "password"
    user = "nobody"
    file.write_text(password)
    folder.mkdir()
    for path in (file, folder):
        shutil.chown(path, user)
    as_user = ["setpriv", f"--reuid={user}", "--clear-groups"]
    options = ["--username=candor", "--auth=scram-sha-256", f"--pwfile={file}", "--no-sync"]
    container.admin(*as_user, str(programs / "initdb"), "-D", str(folder), *options)
    server = [str(programs / "postgres"), "-D", str(folder), "-k", str(folder), "-h", "127.0.0.1"]
    with container.beside(*as_user, *server):
        ready = [str(programs / "pg_isready"), "--host=127.0.0.1", "--username=candor"]
        wait(lambda: quiet(container.enter(*ready)), "PostgreSQL")
        query(container, "create database candor", "postgres")
        yield


def query(container: Container, text: str, database: str = "candor") -> str:
    password = shlex.quote(f"PGPASSWORD={(container.temporary / 'password').read_text()}")
    psql = f"psql --host=127.0.0.1 --username=candor -qAt --dbname={database}"
    return container.admin("/bin/sh", "-c", f"env {password} {psql} -c {shlex.quote(text)}")


def quiet(command: list[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def wait(is_there: Any, what: str) -> None:
    until = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < until, f"{what} does not start"
        time.sleep(0.2)


def with_stores(container: Container) -> str:
    """The whole way of the secrets: made, read by the server of the database, used by Candor."""
    if find_spec("moto") is None:
        raise Skipped("moto is not installed (tests/stores/requirements.txt)")
    runner = Runner(container, config(*FULL)["services"])
    runner.once("key")
    runner.once("store-keys")
    secrets = {name: runner.secret("stores", name) for name in STORE_KEYS}
    assert len(set(secrets.values())) == 2, "one password for both"
    owner = {path.stat().st_uid for path in container.volume("stores").iterdir()}
    objects = container.volume("objects").stat().st_uid
    users = {int(runner.services[name]["user"].split(":")[0]) for name in ("postgres", "s3")}
    assert owner == users == {objects}, "the stores' users cannot read what is theirs"
    # The names of the services in their network.
    container.shell("echo '127.0.0.1 localhost postgres s3' > /etc/hosts")
    bucket = "http://127.0.0.1:9000/candor"
    moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "9000"]
    with postgres(container, secrets["postgres"]), container.beside(*moto):
        wait(lambda: container.fetch("http://127.0.0.1:9000/")[0] == 200, "moto")
        assert container.fetch(bucket, method="PUT")[0] == 200
        with runner.serving() as server:
            key = runner.secret("keys", "api-key")
            url = f"{image.SERVER}/v1/chat/completions"
            status, answer = container.fetch(url, key, image.question())
            assert status == 200, f"{status} {answer[:300]}"
            assert server.stop() == 0, server.log()[-800:]
            log = server.log()
        receipts = query(container, "select count(*) from receipts").strip()
        assert receipts == "1", f"{receipts} receipts in PostgreSQL"
        listed = container.fetch(f"{bucket}?list-type=2")[1]
        assert listed.count("<Key>photographs/") == 1, listed
    for name, secret in secrets.items():
        assert secret not in log, f"the password of {name} is in the log"
    return "PostgreSQL is real; moto in place of MinIO"


def check(report: Report, container: Container | None) -> None:
    report.run("compose: profiles", profiles)
    report.run("compose: services are confined", services_are_confined)
    report.run("compose: mounted files fit", files_fit)
    if container is None or not container.image.entrypoint:
        return
    report.run("compose: Candor alone", lambda: candor_alone(container))
    report.run("compose: Grafana's password", lambda: grafana_reads_its_password(container))
    report.run("compose: Candor with its stores", lambda: with_stores(container))
