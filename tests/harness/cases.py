"""The list of cases, and running them: one line for each."""

import time
import traceback

from harness.parts import Failed

CASES = []


class NotRun(Exception):
    """Why a case could not be tried."""


def case(name: str):
    """Puts a function of the world into the list, in the order of the files."""

    def register(function):
        CASES.append((name, function))
        return function

    return register


def run_cases(world, modules: list, names: list[str], not_run: str = "skipped") -> int:
    """Those of `modules`, in their order. How many failed; the last line counts them for whoever calls."""
    order = [module.__name__ for module in modules]
    cases = sorted(CASES, key=lambda one: order.index(one[1].__module__))
    chosen = [one for one in cases if not names or one[0].split(":")[0] in names]
    counts = {"passed": 0, "failed": 0, not_run: 0}
    for name, function in chosen:
        counts[run_case(world, name, function) or not_run] += 1
    say(", ".join(f"{count} {what}" for what, count in counts.items()))
    return counts["failed"] if chosen else 1


def run_case(world, name: str, function) -> str | None:
    """`passed` or `failed`; None where it could not be tried."""
    started = time.monotonic()
    took = lambda: f"({time.monotonic() - started:.1f} s)"
    try:
        try:
            function(world)
        finally:
            world.end_of_case()
    except NotRun as why:
        say(f"NOT RUN  {name}: {why}")
        return None
    except Failed as error:
        say(f"FAILED   {name} {took()}\n{indent(str(error))}")
        return "failed"
    except Exception:
        say(f"FAILED   {name} {took()}\n{indent(traceback.format_exc())}")
        return "failed"
    say(f"ok       {name} {took()}")
    return "passed"


def indent(text: str) -> str:
    return "\n".join("         " + line for line in text.splitlines())


def say(line: str):
    print(line, flush=True)
