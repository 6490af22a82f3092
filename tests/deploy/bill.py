"""The bill of materials: made by tools/sbom.py, valid, and complete."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from dockerfile import ROOT
from license_expression import get_spdx_licensing
from report import Report, Skipped


def make(out: Path, features: str = "") -> None:
    command = [
        sys.executable,
        str(ROOT / "tools/sbom.py"),
        "--features",
        features,
        "--out",
        str(out),
    ]
    env = os.environ | {"CARGO_NET_OFFLINE": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr.strip()


def is_valid(out: Path) -> str:
    if shutil.which("cargo") is None:
        raise Skipped("cargo is not installed")
    make(out)
    text = out.read_text()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, str(error)
    licensing, bill = get_spdx_licensing(), json.loads(text)
    for component in bill["components"]:
        for license in component["licenses"]:
            if "expression" in license:
                told = licensing.validate(license["expression"])
                assert not told.errors, f"{component['name']}: {told.errors}"
    make(out.with_suffix(".again"))
    assert out.with_suffix(".again").read_text() == text, "another run gives other bytes"
    return f"CycloneDX 1.6, {len(bill['components'])} components, SPDX expressions"


def needed(names: set[str], lock: list[dict[str, Any]]) -> set[str]:
    """The crates by name, with all that they depend on."""
    uses: dict[str, set[str]] = {}
    for package in lock:
        found = uses.setdefault(package["name"], set())
        found |= {dependency.split()[0] for dependency in package.get("dependencies", [])}
    reached, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += uses.get(name, set())
    return reached


def is_complete(out: Path) -> str:
    """Every crate that the manifest names without a condition is in it, in the locked version, and
    none that only tests need."""
    parts = {part["name"]: part for part in json.loads(out.read_text())["components"]}
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    versions = {(package["name"], package["version"]) for package in lock}
    for name in manifest["dependencies"]:
        assert name in parts, f"{name} is missing"
        assert parts[name]["scope"] == "required", name
    for part in parts.values():
        if part["type"] == "library":
            assert (part["name"], part["version"]) in versions, part["name"]
    for name in set(manifest["dev-dependencies"]) - needed(set(manifest["dependencies"]), lock):
        assert name not in parts, f"{name} is needed by tests alone"
    assert "not for commercial use" in json.dumps(parts["candor-mini"]["licenses"])
    gpu = out.with_suffix(".cuda")
    make(gpu, "cuda")
    assert "cudarc" in gpu.read_text() and "cudarc" not in parts
    return "and with CUDA's crates for --features cuda"


def check(report: Report, out: Path) -> None:
    report.run("bill of materials: valid", lambda: is_valid(out))
    if out.exists():
        report.run("bill of materials: complete", lambda: is_complete(out))
