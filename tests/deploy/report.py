"""What the checks found, one line each."""

import sys
from collections.abc import Callable


class Skipped(Exception):
    """A check cannot be made on this machine; the message says why."""


class Report:
    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def run(self, name: str, check: Callable[[], str | None]) -> None:
        """Runs a check, which returns a remark or raises AssertionError with what is wrong."""
        try:
            remark, outcome = check() or "", "passed"
        except Skipped as error:
            remark, outcome = str(error), "failed" if self.strict else "skipped"
        except AssertionError as error:
            remark, outcome = str(error) or "assertion failed", "failed"
        except Exception as error:  # a check that breaks is a failure, and the others go on
            remark, outcome = f"{type(error).__name__}: {error}", "failed"
        self.counts[outcome] += 1
        print(f"{outcome:8}{name}" + (f": {remark}" if remark else ""), flush=True)

    def end(self) -> None:
        print(", ".join(f"{count} {outcome}" for outcome, count in self.counts.items()))
        sys.exit(self.counts["failed"] > 0)
