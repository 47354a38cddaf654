"""Runs the cases and prints one line for each."""

import json
import signal
import sys
import time
import traceback
from pathlib import Path

import cases_authlib
import cases_keycloak
import cases_mcp
import cases_mtls
import cases_outage
from install import Cache, cache_directory
from parts import Failed, Run
from world import CASES, NotRun, World

# The order of the modules is the order of the cases: the outages come last, they end parts that the others need.
MODULES = [cases_keycloak, cases_mtls, cases_mcp, cases_authlib, cases_outage]


def main():
    plan = json.loads(sys.argv[1])
    cache = Cache(cache_directory())
    cache.missing, cache.java = plan["missing"], Path(plan["java"]) if plan["java"] else None
    run = Run()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    failed = None
    try:
        world = World(run, cache, plan["proxy"], say)
        failed = run_cases(world, plan["cases"])
    finally:
        keep = failed != 0 or plan["keep"]
        run.close(keep)
        if keep:
            say(f"logs and configurations: {run.directory}")
    sys.exit(1 if failed else 0)


def run_cases(world: World, names: list[str]) -> int:
    """How many failed; the last line counts them for whoever calls."""
    modules = [module.__name__ for module in MODULES]
    cases = sorted(CASES, key=lambda one: modules.index(one[1].__module__))
    chosen = [one for one in cases if not names or one[0].split(":")[0] in names]
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for name, function in chosen:
        counts[run_case(world, name, function)] += 1
    say(", ".join(f"{count} {what}" for what, count in counts.items()))
    return counts["failed"] if chosen else 1


def run_case(world: World, name: str, function) -> str:
    started = time.monotonic()
    took = lambda: f"({time.monotonic() - started:.1f} s)"
    try:
        try:
            function(world)
        finally:
            world.end_of_case()
    except NotRun as why:
        say(f"NOT RUN  {name}: {why}")
        return "skipped"
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


if __name__ == "__main__":
    main()
