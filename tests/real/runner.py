"""Runs the cases."""

import json
import signal
import sys
from pathlib import Path

import cases_authlib
import cases_keycloak
import cases_mcp
import cases_mtls
import cases_outage
from cases import run_cases, say
from install import Cache, cache_directory
from parts import Run
from world import World

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
        failed = run_cases(world, MODULES, plan["cases"])
    finally:
        keep = failed != 0 or plan["keep"]
        run.close(keep)
        if keep:
            say(f"logs and configurations: {run.directory}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
