"""Runs the cases."""

import json
import signal
import sys
from pathlib import Path

from harness.cases import run_cases, say
from harness.install import Cache, cache_directory
from harness.parts import Run
from real.cases import authlib, keycloak, mcp, mtls, outage
from real.world import World

# The order of the modules is the order of the cases: the outages come last, they end parts that the others need.
MODULES = [keycloak, mtls, mcp, authlib, outage]


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
