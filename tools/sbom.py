#!/usr/bin/env python3
"""Writes the software bill of materials of the candor binary: CycloneDX 1.6, JSON.

    tools/sbom.py [--features cuda] [--target TRIPLE] [--out FILE]

Lists the crates of Cargo.lock that the binary is built from for that target and those features,
with versions, licenses, checksums and dependencies, and the data compiled into it: the bundle,
whose terms are not those of the code, and the noun table. The same sources give the same bytes.
Needs cargo and Python 3.11; tests/deploy validates the result against CycloneDX's schema.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "models" / "candor-mini"
TERMS = "Research and education only, not for commercial use (trained on Flickr8k)"
Json = dict[str, Any]


def output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        sys.exit(f"sbom: {command[0]} is not installed")
    except subprocess.CalledProcessError as error:
        sys.exit(f"sbom: {' '.join(command)} failed with exit status {error.returncode}")
    return done.stdout


def host() -> str:
    lines = output("rustc", "-vV").splitlines()
    return next(line.removeprefix("host: ") for line in lines if line.startswith("host: "))


def expression(license: str | None) -> list[Json]:
    """A crate's license; the slash is an older spelling of OR."""
    if not license:
        return [{"license": {"name": "see the crate's license file"}}]
    return [{"expression": " OR ".join(part.strip() for part in license.split("/"))}]


def reached(nodes: dict[str, Json], root: str, linked: set[str] | None = None) -> set[str]:
    """Packages that the root needs without its tests; with `linked`, those of them alone, and
    without what only build scripts need."""
    found, open_ = {root}, [root]
    kinds = {None} if linked is not None else {None, "build"}
    while open_:
        for edge in nodes[open_.pop()]["deps"]:
            needed = any(kind["kind"] in kinds for kind in edge["dep_kinds"])
            if needed and edge["pkg"] not in found and (linked is None or edge["pkg"] in linked):
                found.add(edge["pkg"])
                open_.append(edge["pkg"])
    return found


def ref(package: Json) -> str:
    return f"pkg:cargo/{package['name']}@{package['version']}"


def crate(package: Json, checksum: str | None, in_binary: bool) -> Json:
    part: Json = {
        "type": "library",
        "bom-ref": ref(package),
        "name": package["name"],
        "version": package["version"],
        # "excluded": needed to build, and not in the binary.
        "scope": "required" if in_binary else "excluded",
        "licenses": expression(package["license"]),
        "purl": ref(package),
    }
    if checksum:
        part["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return part


def data() -> list[Json]:
    """What is compiled in beside code."""
    config = json.loads((BUNDLE / "config.json").read_text())
    weights = (BUNDLE / "model.safetensors").read_bytes()
    bundle = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{config['name']}",
        "name": config["name"],
        "version": config["version"],
        "licenses": [{"license": {"name": TERMS}}],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(weights).hexdigest()}],
    }
    nouns = {
        "type": "data",
        "bom-ref": "data:wordnet",
        "name": "WordNet",
        "version": "3.0",
        "licenses": [{"license": {"name": "WordNet 3.0 license"}}],
    }
    return [bundle, nouns]


def build(
    metadata: Json, checksums: dict[tuple[str, str], str], target: str, features: str
) -> Json:
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    macros = {
        id
        for id, package in packages.items()
        if any("proc-macro" in made["kind"] for made in package["targets"])
    }
    needed = reached(nodes, root)
    linked = reached(nodes, root, needed - macros)
    order = sorted(needed - {root}, key=lambda id: ref(packages[id]))

    def part(id: str) -> Json:
        package = packages[id]
        checksum = checksums.get((package["name"], package["version"]))
        return crate(package, checksum, id in linked)

    def edges(id: str) -> Json:
        depends = {
            ref(packages[edge["pkg"]]) for edge in nodes[id]["deps"] if edge["pkg"] in needed
        }
        return {"ref": ref(packages[id]), "dependsOn": sorted(depends)}

    compiled_in = data()
    own = edges(root)
    own["dependsOn"] += [component["bom-ref"] for component in compiled_in]
    candor = packages[root]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ref(candor),
                "name": candor["name"],
                "version": candor["version"],
                "licenses": expression(candor["license"]),
                "purl": ref(candor),
            },
            "properties": [
                {"name": "cargo:target", "value": target},
                {"name": "cargo:features", "value": features},
            ],
        },
        "components": [part(id) for id in order] + compiled_in,
        "dependencies": [own] + [edges(id) for id in order],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the binary's bill of materials.")
    parser.add_argument("--features", default="", help="Cargo features, as in the build")
    parser.add_argument("--target", default=None, help="target triple; this machine's by default")
    parser.add_argument("--out", type=Path, help="file; standard output by default")
    args = parser.parse_args()
    target = args.target or host()
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    command += ["--filter-platform", target, "--features", args.features]
    metadata = json.loads(output(*command))
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {
        (package["name"], package["version"]): package["checksum"]
        for package in lock["package"]
        if "checksum" in package
    }
    bill = build(metadata, checksums, target, args.features)
    # Of the contents, so that a rebuild gives the same file.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill, sort_keys=True))
    text = json.dumps(bill | {"serialNumber": f"urn:uuid:{serial}"}, indent=1) + "\n"
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
