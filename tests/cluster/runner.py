"""Starts the node and its parts, runs the cases, and ends everything, however it goes."""

import contextlib
import json
import signal
import sys
from pathlib import Path

from cluster.cases import agents, bounds, configuration, injector, install, registration, upgrade
from cluster.world import Cluster
from harness.cases import run_cases, say
from harness.install import Cache, InstallError, cache_directory
from harness.parts import Failed, Run

# The order of the modules is the order of the cases: the first installs what the others use, the last replaces it.
MODULES = [
    install,
    agents,
    registration,
    configuration,
    injector,
    bounds,
    upgrade,
]


def main():
    plan = json.loads(sys.argv[1])
    cache = Cache(cache_directory())
    cache.java = Path(plan["java"])
    run = Run()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What `nohup` ignores stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(f"ended by {signal.Signals(number).name}"))
    failed, world = None, Cluster(run, cache, plan, say)
    try:
        world.start()
        failed = run_cases(world, MODULES, plan["cases"], not_run="not run")
    except (Failed, InstallError) as error:
        say(f"FAILED   the parts do not start: {error}\n0 passed, 1 failed, 0 not run")
    finally:
        # A second Ctrl-C must not leave a node behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        keep = failed != 0 or plan["keep"]
        with contextlib.ExitStack() as ending:
            ending.callback(run.close, keep)
            if world.node.run:
                ending.callback(world.node.down)
            if world.node.run and keep:
                world.save_logs()
        if keep:
            say(f"logs: {run.directory}")
    sys.exit(1 if failed != 0 else 0)


if __name__ == "__main__":
    main()
