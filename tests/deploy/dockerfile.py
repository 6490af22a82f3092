"""Reading of the Dockerfile and of the build context, and what can be said without running it."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from docker.utils.build import exclude_paths
from report import Report, Skipped

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == word]


@dataclass
class Copy:
    sources: list[str]
    target: str
    stage: str | None

    @classmethod
    def parse(cls, rest: str) -> "Copy":
        words = shlex.split(rest)
        flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        return cls(sources, target, flags.get("from"))


def stages(text: str) -> dict[str, Stage]:
    """The stages by name, in order; the last is what `docker build` makes."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, rest = line.split(None, 1)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(name, base)
        else:
            stage.instructions.append((word, rest.strip()))
    return found


def load() -> dict[str, Stage]:
    return stages((ROOT / "Dockerfile").read_text())


def chain(all_: dict[str, Stage], name: str) -> list[Stage]:
    """The stage and those it is made from, the first one first."""
    stage = all_[name]
    return (chain(all_, stage.base) if stage.base in all_ else []) + [stage]


def context() -> set[str]:
    """Files and folders that Docker would send, by its own client's reading of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    # Docker's client always sends these two, and BuildKit copies neither.
    return exclude_paths(str(ROOT), patterns, dockerfile="Dockerfile") - {
        "Dockerfile",
        ".dockerignore",
    }


def hadolint() -> None:
    found = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", ROOT / "Dockerfile"],
        stdout=subprocess.PIPE,
        text=True,
    )
    # One finding is known: two commands of a stage are two layers on purpose.
    lines = [line for line in found.stdout.splitlines() if "DL3059" not in line]
    assert not lines, "\n".join(lines)


def copies_exist() -> str:
    sent, all_ = context(), load()
    count = 0
    for stage in all_.values():
        for copy in map(Copy.parse, stage.all("COPY")):
            if copy.stage is None:
                for source in copy.sources:
                    assert source == "." or source in sent, f"{source} is not in the context"
                    count += 1
            else:
                assert copy.stage in all_, f"COPY --from={copy.stage}: no such stage"
    return f"{count} sources, {len(sent)} files and folders in the context"


def included() -> set[str]:
    """Files and folders that are compiled in, as src names them, by its tests too: what include_*!
    names, what else begins with `../` (macros put such names together), and the bundles."""
    named = re.compile(r'include_(?:str|bytes)!\(\s*"([^"]+)"|"(\.\./[^"\s]+)"')
    found = {str(file.relative_to(ROOT)) for file in (ROOT / "models").rglob("*.*")}
    for file in (ROOT / "src").rglob("*.rs"):
        for name, above in named.findall(file.read_text()):
            path = (file.parent / (name or above)).resolve()
            if name or (path.exists() and path.is_relative_to(ROOT)):
                found.add(str(path.relative_to(ROOT)))
    return found


def compiled(binary: Path) -> set[str]:
    """Files that rustc read for the binary, from the list that cargo writes beside it."""
    listed = binary.with_name(binary.name + ".d")
    if not listed.exists():
        return set()
    _, files = listed.read_text().split(":", 1)
    paths = [Path(name.replace("\\ ", " ")) for name in re.split(r"(?<!\\)\s+", files.strip())]
    return {str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT)}


def inputs_are_sent(binary: Path) -> str:
    sent, named, listed = context(), included(), compiled(binary)
    for name in sorted(named | listed):
        assert name in sent, f"the build reads {name}, which .dockerignore leaves out"
    beside = f"{len(listed)} by rustc" if listed else "no list of rustc's beside the binary"
    return f"{len(named)} named in src, {beside}"


def dependencies_stage_resolves() -> str:
    """The files of the cached layer are a package that cargo accepts with Cargo.lock."""
    if shutil.which("cargo") is None:
        raise Skipped("cargo is not installed")
    with tempfile.TemporaryDirectory() as folder:
        for word, rest in load()["dependencies"].instructions:
            if word == "COPY":
                copy = Copy.parse(rest)
                target = Path(folder, copy.target)
                target.mkdir(parents=True, exist_ok=True)
                for source in copy.sources:
                    shutil.copy(ROOT / source, target)
            elif word == "RUN" and rest.startswith("mkdir"):
                subprocess.run(["/bin/sh", "-euc", rest], cwd=folder, check=True)
        command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version=1"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr.strip()
        [package] = json.loads(done.stdout)["packages"]
        kinds = {kind for made in package["targets"] for kind in made["kind"]}
        assert {"lib", "bin", "bench"} <= kinds, f"only {sorted(kinds)}"
    return "by cargo metadata; not built"


def labels(stage_chain: list[Stage]) -> dict[str, str]:
    arguments = dict(rest.split("=", 1) for stage in stage_chain for rest in stage.all("ARG"))
    found = {}
    for rest in (rest for stage in stage_chain for rest in stage.all("LABEL")):
        for word in shlex.split(rest):
            name, value = word.split("=", 1)
            found[name] = re.sub(r"\$(\w+)", lambda match: arguments[match[1]], value)
    return found


def metadata() -> None:
    all_ = load()
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    bundle = json.loads((ROOT / "models/candor-mini/config.json").read_text())
    assert list(all_)[-1] == "cpu", "a plain `docker build` must make the image for CPUs"
    for target in ("cpu", "cuda"):
        made = chain(all_, target)
        said = labels(made)
        oci = "org.opencontainers.image."
        assert said[f"{oci}title"] == "Candor"
        assert said[f"{oci}version"] == package["version"], "ARG VERSION is not Cargo.toml's"
        assert said[f"{oci}licenses"].split(" AND ")[0] == package["license"]
        assert said["candor.bundle"] == f"{bundle['name']} {bundle['version']}"
        license = said["candor.bundle.license"]
        assert license == bundle.get("license", {}).get("id", license), "not the bundle's license"
        assert said[f"{oci}licenses"].endswith(f" AND LicenseRef-{license}")
        assert "not for commercial use" in said["candor.bundle.terms"]
        assert "FROM debian:bookworm-slim" in f"FROM {made[0].base}"
        [user] = [rest for stage in made for rest in stage.all("USER")]
        assert user.isdigit() and int(user) > 0, f"USER {user}: must be a number other than 0"
        for word in ("HEALTHCHECK", "ENTRYPOINT", "CMD"):
            assert sum(len(stage.all(word)) for stage in made) == 1, f"{target}: one {word}"


def check(report: Report, binary: Path) -> None:
    report.run("Dockerfile: hadolint", hadolint)
    report.run("Dockerfile: every COPY finds its sources", copies_exist)
    report.run("Dockerfile: what is compiled in is sent", lambda: inputs_are_sent(binary))
    report.run("Dockerfile: the dependencies' stage is a package", dependencies_stage_resolves)
    report.run("Dockerfile: labels, user, stages", metadata)
