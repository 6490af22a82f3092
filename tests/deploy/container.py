"""A container without a daemon: a writable copy of a root file system (an overlay), in namespaces
of its own for mounts, processes and network, in which instructions of the Dockerfile and services
run as Docker would run them: as their user, without capabilities, with a read-only root, volumes.

Needs root and the programs of util-linux. The base is a folder; `/` (this machine's own system)
does where no Debian tree is at hand.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dockerfile import ROOT, Copy, Stage
from report import Skipped

# In the new namespaces; $0 is the base, $1 the folder of the overlay.
START = r"""
mount -t tmpfs -o mode=755 overlay "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
python3 -c '
import fcntl, socket, struct
flags = struct.pack("16sh14x", b"lo", 0x1 | 0x40)
fcntl.ioctl(socket.socket(), 0x8914, flags)'
echo ready
exec sleep infinity
"""

FETCH = r"""
import json, ssl, sys, urllib.error, urllib.request
class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None
secure = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
url, headers, body, method = json.load(sys.stdin)
request = urllib.request.Request(url, body and body.encode(), headers, method=method)
try:
    with urllib.request.build_opener(Stay, secure).open(request, timeout=60) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError as error:
    print(0, error)
"""


@dataclass
class Image:
    """What the instructions set beside files."""

    env: dict[str, str] = field(default_factory=dict)
    user: str = "0"
    folder: str = "/"
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


@dataclass
class Mount:
    target: str
    # A named volume, a folder of this machine, or tmpfs.
    source: str
    read_only: bool = False

    @property
    def is_bind(self) -> bool:
        return self.source.startswith("/")


class Container:
    def __init__(self, base: Path) -> None:
        if os.geteuid() != 0:
            raise Skipped("needs root, for namespaces and mounts")
        for program in ("unshare", "nsenter", "setpriv", "chroot", "mount"):
            if shutil.which(program) is None:
                raise Skipped(f"{program} is not installed")
        self.temporary = Path(tempfile.mkdtemp(prefix="candor-deploy-"))
        self.overlay = self.temporary / "overlay"
        self.overlay.mkdir()
        # Other users' servers keep files below it.
        self.temporary.chmod(0o755)
        self.root = self.overlay / "root"
        self.image = Image()
        # Ends with this program, however that ends.
        command = [
            "setpriv",
            "--pdeathsig=KILL",
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
        ]
        command += ["--propagation", "private", "/bin/sh", "-euc", START]
        self.holder = subprocess.Popen(
            [*command, base, self.overlay], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.holder.stdout and self.holder.stderr
        if self.holder.stdout.readline() != b"ready\n":
            why = self.holder.stderr.read().decode().strip()
            self.close()
            raise Skipped(f"no namespaces or overlay here: {why}")
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        self.inside = children.read_text().split()[0]

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def enter(self, *command: str) -> list[str]:
        """A command as root in the namespaces, with this machine's files."""
        kinds = ["--mount", "--net", "--pid"]
        return ["nsenter", "--target", self.inside, *kinds, "--", *command]

    def admin(self, *command: str, sent: str | None = None) -> str:
        done = subprocess.run(self.enter(*command), capture_output=True, text=True, input=sent)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout

    def shell(self, text: str, *arguments: str) -> str:
        """A script as root in the container's root."""
        return self.admin("chroot", str(self.root), "/bin/sh", "-euc", text, *arguments)

    def wrapped(self, command: list[str], user: str, folder: str, env: dict[str, str]) -> list[str]:
        """The command as the container's user: no capabilities, and no way to new ones."""
        uid, _, gid = user.partition(":")
        gid = gid or self.group(uid)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = [f"{name}={value}" for name, value in ({"PATH": path} | env).items()]
        drop = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        return self.enter(
            *["chroot", str(self.root), "setpriv", f"--reuid={uid}", f"--regid={gid}", *drop],
            *["env", "-i", "-C", folder, *variables, *command],
        )

    def group(self, uid: str) -> str:
        """The user's group, as Docker takes it from the image's /etc/passwd."""
        passwd = self.shell("cat /etc/passwd").splitlines()
        return next((line.split(":")[3] for line in passwd if line.split(":")[2] == uid), "0")

    def build(self, stage_chain: list[Stage], made: dict[str, Path]) -> list[str]:
        """Follows the instructions; `made` has the files that other stages would have made.
        Returns the instructions left out."""
        image, left_out = self.image, []
        for word, rest in (step for stage in stage_chain for step in stage.instructions):
            if word == "RUN" and re.search(r"\b(apt-get|pip|cargo)\b", rest):
                left_out.append(rest)
            elif word == "RUN":
                self.shell(f'cd "$0" && {rest}', image.folder)
            elif word == "COPY":
                self.copy(Copy.parse(rest), made)
            elif word == "ENV":
                image.env |= dict(pair.split("=", 1) for pair in rest.split())
            elif word == "USER":
                image.user = rest
            elif word == "WORKDIR":
                image.folder = rest
                self.shell('mkdir -p "$0"', rest)
            elif word == "VOLUME":
                image.volumes.append(rest)
            elif word == "ENTRYPOINT":
                image.entrypoint = json.loads(rest)
            elif word == "CMD":
                image.command = json.loads(rest)
            elif word == "HEALTHCHECK":
                image.health = json.loads(rest.split(" CMD ", 1)[1])
            else:
                assert word in ("ARG", "LABEL", "EXPOSE"), f"{word}: unknown to this test"
        return left_out

    def copy(self, copy: Copy, made: dict[str, Path]) -> None:
        for source in copy.sources:
            file = made[source] if copy.stage else ROOT / source
            target = copy.target + file.name if copy.target.endswith("/") else copy.target
            place = str(self.root) + target
            # As Docker does: root's, with the mode of the source.
            self.admin("install", "-D", f"--mode={file.stat().st_mode & 0o777:o}", str(file), place)

    def volume(self, name: str) -> Path:
        return self.temporary / "volumes" / name

    @contextlib.contextmanager
    def mounted(self, mounts: list[Mount]) -> Iterator[None]:
        """Mounts these, and makes the rest read-only. An empty volume begins as what the image has
        at its place, owner and mode included."""
        done = []
        for mount in mounts:
            place = str(self.root) + mount.target
            self.shell('[ -e "$0" ] || mkdir -p "$0"', mount.target)
            if mount.source == "tmpfs":
                self.admin("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", place)
            else:
                self.bind(mount, place)
            done.append(place)
        self.admin("mount", "-o", "remount,ro", str(self.root))
        try:
            yield
        finally:
            self.admin("mount", "-o", "remount,rw", str(self.root))
            for place in reversed(done):
                self.admin("umount", place)

    def bind(self, mount: Mount, place: str) -> None:
        source = Path(mount.source) if mount.is_bind else self.volume(mount.source)
        if not mount.is_bind:
            source.mkdir(parents=True, exist_ok=True)
            if not any(source.iterdir()):
                self.admin("cp", "-aT", place, str(source))
        self.admin("mount", "--bind", str(source), place)
        if mount.read_only:
            self.admin("mount", "-o", "remount,bind,ro", place)

    def run(
        self, command: list[str], user: str | None = None, folder: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        image = self.image
        wrapped = self.wrapped(command, user or image.user, folder or image.folder, image.env)
        return subprocess.run(wrapped, capture_output=True, text=True, timeout=60)

    @contextlib.contextmanager
    def beside(self, *command: str) -> Iterator[None]:
        """A program of this machine that runs in the container's network meanwhile."""
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(self.enter(*command), stdout=log, stderr=log)
            try:
                yield
            finally:
                process.terminate()
                process.wait()

    @contextlib.contextmanager
    def running(self, command: list[str], env: dict[str, str]) -> Iterator["Service"]:
        wrapped = self.wrapped(command, self.image.user, self.image.folder, self.image.env | env)
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(wrapped, stdout=log, stderr=log)
            service = Service(self, process, log)
            try:
                yield service
            finally:
                if process.poll() is None:
                    self.kill("KILL")
                    process.wait()

    def kill(self, signal: str) -> None:
        self.shell(
            'for exe in /proc/[0-9]*/exe; do case $(readlink "$exe") in */bin/candor) '
            'pid=${exe#/proc/}; kill -"$0" "${pid%/exe}";; esac; done',
            signal,
        )

    def fetch(
        self,
        url: str,
        key: str = "",
        body: object = None,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """Status and body, without following redirects; 0 where nobody listens."""
        headers = {"content-type": "application/json"} | (headers or {})
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        request = json.dumps([url, headers, body and json.dumps(body), method])
        said = self.admin(sys.executable, "-c", FETCH, sent=request)
        status, _, text = said.partition(" ")
        return int(status), text


@dataclass
class Service:
    container: Container
    process: subprocess.Popen[bytes]
    file: IO[str]

    def log(self) -> str:
        self.file.seek(0)
        return self.file.read()

    def wait_until_healthy(self) -> None:
        """By the image's own health check."""
        until = time.monotonic() + 60
        while self.container.run(self.container.image.health).returncode != 0:
            assert self.process.poll() is None, f"the server ended: {self.log()[-800:]}"
            assert time.monotonic() < until, f"never healthy: {self.log()[-800:]}"
            time.sleep(0.2)

    def stop(self) -> int:
        self.container.kill("TERM")
        return self.process.wait(timeout=60)
