"""Fills the cache and runs the cases with the installed Python, if this machine can."""

import argparse
import json
import os
import sys
from pathlib import Path

from cluster import cache as parts
from harness import module_command
from harness.cases import Runner, say

# A run that was requested and did not take place must not look like success.
EXIT_NOT_RUN = 3


def main():
    options = argparse.ArgumentParser(prog="tests/cluster/run", description="idjag-proxy on a real Kubernetes node")
    options.add_argument("cases", nargs="*", help="groups of cases: a to f; default: all")
    options.add_argument("--install", action="store_true", help="fill the cache and run nothing")
    options.add_argument(
        "--cached", action="store_true", help="report whether it would run at once, also by the exit code"
    )
    options.add_argument("--if-cached", action="store_true", help="run nothing unless the cache is full")
    options.add_argument("--profile", default="release", help="the images' profile: release (default) or dist (slow)")
    options.add_argument("--images", type=Path, help="a directory of images to use instead of compiling them")
    options.add_argument("--keep", action="store_true", help="keep the logs even if all cases pass")
    chosen = options.parse_args()

    missing = parts.missing()
    reason = parts.impossible()
    if chosen.cached:
        say(reason or (f"not cached: {', '.join(missing)}" if missing else "cached"))
        sys.exit(1 if reason or missing else 0)
    if reason:
        not_run(reason)
    if chosen.if_cached and missing:
        not_run(f"not cached: {', '.join(missing)}; `tests/cluster/run --install` fills the cache in about 30 minutes")
    cache = parts.install(say)
    if chosen.install:
        sys.exit(1 if cache.missing else 0)
    if cache.missing:
        not_run("; ".join(f"{part}: {why}" for part, why in cache.missing.items()))
    plan = {
        "cases": chosen.cases,
        "profile": chosen.profile,
        "images": str(chosen.images.resolve()) if chosen.images else "",
        "keep": chosen.keep,
        "java": str(cache.java),
    }
    os.execv(cache.python, module_command(cache.python, "cluster.runner", json.dumps(plan)))


def not_run(reason: str):
    runner = Runner("not run")
    runner.not_run("every case", reason)
    runner.finish()
    sys.exit(EXIT_NOT_RUN)


if __name__ == "__main__":
    main()
