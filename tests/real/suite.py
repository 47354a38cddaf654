"""Installs the parts with the system's Python, then runs the cases with the installed one."""

import argparse
import json
import os
import sys

from harness import module_command
from harness.cases import Runner, say
from harness.install import install_parts


def main():
    options = argparse.ArgumentParser(prog="tests/real/run", description="idjag-proxy against real parts")
    options.add_argument("cases", nargs="*", help="groups of cases: control, a to e, mcp, authlib; default: all")
    options.add_argument("--install", action="store_true", help="install the parts and run nothing")
    options.add_argument("--proxy", help="the binary; default: target/release/idjag-proxy, built if absent")
    options.add_argument("--keep", action="store_true", help="keep the run directory even if all cases pass")
    chosen = options.parse_args()
    cache = install_parts(say)
    if chosen.install:
        sys.exit(1 if cache.missing else 0)
    if "python" in cache.missing:
        runner = Runner()
        runner.not_run("every case", cache.missing["python"])
        sys.exit(runner.finish())
    plan = {
        "cases": chosen.cases,
        "proxy": chosen.proxy,
        "keep": chosen.keep,
        "missing": cache.missing,
        "java": str(cache.java or ""),
    }
    os.execv(cache.python, module_command(cache.python, "real.runner", json.dumps(plan)))


if __name__ == "__main__":
    main()
