"""Runs the cases with the installed Python. The argument is the plan of `real.suite`, in JSON."""

import json
import sys
from pathlib import Path

from harness.cases import Runner, say
from harness.install import Cache, cache_directory
from harness.parts import Run, exit_on_signals
from real.cases import authlib, keycloak, mcp, mtls, outage
from real.world import World

# Cases run in the order of the modules. Outages come last because they end parts that others need.
MODULES = [keycloak, mtls, mcp, authlib, outage]


def main():
    plan = json.loads(sys.argv[1])
    cache = Cache(cache_directory())
    cache.missing, cache.java = plan["missing"], Path(plan["java"]) if plan["java"] else None
    exit_on_signals()
    run, runner = Run(), Runner()
    code = None
    try:
        runner.run_all(World(run, cache, plan["proxy"]), MODULES, plan["cases"])
        code = runner.finish()
    finally:
        keep = code != 0 or plan["keep"]
        run.close(keep)
        if keep:
            say(f"logs and configurations: {run.directory}")
    sys.exit(code)


if __name__ == "__main__":
    main()
