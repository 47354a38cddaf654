"""Test cases: how a suite declares, runs, reports and counts them."""

import time
import traceback
from collections.abc import Callable
from types import ModuleType

CASES: list[tuple[str, Callable]] = []


class Failed(Exception):
    """An expectation that did not hold. The message is all that the report shows."""


class NotRun(Exception):
    """The reason why a case could not be tried."""


def expect(holds, message: str):
    if not holds:
        raise Failed(message)


def case(name: str):
    """Registers a function as a case of its module. It is called with the suite's world."""

    def register(function):
        CASES.append((name, function))
        return function

    return register


class Runner:
    """Runs cases one after another, prints a line for each, and counts them.

    `skipped` names the cases that could not be tried in the closing line, which `.ci/run` reads.
    """

    def __init__(self, skipped: str = "skipped"):
        self.skipped = skipped
        self.counts = {"passed": 0, "failed": 0, skipped: 0}

    def run(self, name: str, function: Callable, *arguments):
        """Calls `function`, which may return a remark for the report.

        `Failed` is reported by its message. Any other exception is a bug of the suite and is
        reported with its traceback.
        """
        started = time.monotonic()
        try:
            remark = function(*arguments)
        except NotRun as reason:
            self.not_run(name, str(reason))
        except Exception as error:
            reason = str(error) if isinstance(error, Failed) else traceback.format_exc()
            self.failed(f"{name} ({time.monotonic() - started:.1f} s)", reason)
        else:
            took = f"{time.monotonic() - started:.1f} s"
            self.passed(f"{name} ({took}{f'; {remark}' if remark else ''})")

    def run_all(self, world, modules: list[ModuleType], groups: list[str]):
        """Runs the cases of `modules` in their order, of all groups or of those named.

        A case's group is what its name has before the first colon. Each case ends with
        `world.end_of_case()`, whose failure fails the case.
        """
        order = [module.__name__ for module in modules]
        for name, function in sorted(CASES, key=lambda one: order.index(one[1].__module__)):
            if not groups or name.split(":")[0] in groups:
                self.run(name, _run_in, world, function)

    def passed(self, line: str):
        self.counts["passed"] += 1
        say(f"ok       {line}")

    def failed(self, line: str, reason: str):
        self.counts["failed"] += 1
        say(f"FAILED   {line}\n{_indent(reason)}")

    def not_run(self, name: str, reason: str, count: int = 1):
        self.counts[self.skipped] += count
        say(f"NOT RUN  {name}: {reason}")

    @property
    def any_failed(self) -> bool:
        return self.counts["failed"] > 0

    def finish(self) -> int:
        """Prints the closing line. The exit code is 1 where a case failed or none was chosen."""
        say(", ".join(f"{count} {what}" for what, count in self.counts.items()))
        return 0 if any(self.counts.values()) and not self.any_failed else 1


def _run_in(world, function: Callable) -> str | None:
    try:
        return function(world)
    finally:
        world.end_of_case()


def _indent(text: str) -> str:
    return "\n".join("         " + line for line in text.splitlines())


def say(line: str):
    print(line, flush=True)
