"""Starts the node and its parts, runs the cases, and ends everything, whatever happens."""

import contextlib
import json
import signal
import sys
from pathlib import Path

from cluster.cases import agents, bounds, configuration, injector, install, registration, upgrade
from cluster.world import Cluster
from harness.cases import Failed, Runner, say
from harness.install import Cache, InstallError, cache_directory
from harness.parts import Run, exit_on_signals

# Cases run in the order of the modules: the first installs what the others use, the last replaces
# it.
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
    run, runner = Run(), Runner("not run")
    exit_on_signals()
    code, world = None, Cluster(run, cache, plan)
    try:
        world.start()
        runner.run_all(world, MODULES, plan["cases"])
        code = runner.finish()
    except (Failed, InstallError) as error:
        runner.failed("the parts do not start", str(error))
        code = runner.finish()
    finally:
        # A second Ctrl-C must not leave the node running.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        keep = code != 0 or plan["keep"]
        with contextlib.ExitStack() as ending:
            ending.callback(run.close, keep)
            if world.node.run:
                ending.callback(world.node.down)
            if world.node.run and keep:
                world.save_logs()
        if keep:
            say(f"logs: {run.directory}")
    sys.exit(code)


if __name__ == "__main__":
    main()
