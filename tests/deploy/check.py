#!/usr/bin/env python3
"""Checks the image, the compose file and the Helm chart, with real programs where they can be had.

    python tests/deploy/check.py --candor target/release/candor [--base DIR] [--strict] [PART...]

Parts: dockerfile, sbom, image, compose, chart, oidc; all by default. The packages are in
requirements.txt. No Docker daemon is used: a namespace with an overlay takes its place
(container.py), on this machine's system or on the Debian tree of --base. A check that cannot be
made is skipped, with the reason; --strict makes that a failure. The exit status is 1 if a check
failed.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import bill
import chart
import compose
import dockerfile
import image
import oidc
from container import Container
from report import Report, Skipped

PARTS = ("dockerfile", "sbom", "image", "compose", "chart", "oidc")


def contained(report: Report, args: argparse.Namespace, out: Path) -> Container | None:
    """The container with the image in it, or none where there cannot be one."""

    def unavailable(error: Skipped) -> Callable[[], str]:
        def skip() -> str:
            raise error

        return skip

    try:
        container = Container(args.base)
    except Skipped as error:
        report.run("image", unavailable(error))
        return None
    if not out.exists():
        out.write_text("{}")
    image.check(report, container, args.candor, out, args.base)
    return container


def main() -> None:
    parser = argparse.ArgumentParser(description="Check image, compose file and Helm chart.")
    parser.add_argument("--candor", type=Path, required=True, help="the built binary")
    parser.add_argument("--base", type=Path, default=Path("/"), help="root of the base image")
    parser.add_argument("--strict", action="store_true", help="a skipped check is a failure")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    if not args.candor.is_file():
        parser.error(f"--candor {args.candor}: no such file; cargo build --release makes one")
    if not args.base.is_dir():
        parser.error(f"--base {args.base}: no such folder")
    args.candor, args.base = args.candor.resolve(), args.base.resolve()
    parts = set(args.parts or PARTS)
    report = Report(args.strict)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "candor.cdx.json")
        if "dockerfile" in parts:
            dockerfile.check(report, args.candor)
        if "sbom" in parts:
            bill.check(report, out)
        needs_image = parts & {"image", "compose", "chart", "oidc"}
        container = contained(report, args, out) if needs_image else None
        try:
            if "compose" in parts:
                compose.check(report, container)
            if "chart" in parts:
                chart.check(report, args.candor, container)
            if "oidc" in parts:
                oidc.check(report, container)
        finally:
            if container is not None:
                container.close()
    report.end()


if __name__ == "__main__":
    main()
