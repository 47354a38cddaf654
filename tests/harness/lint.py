"""Lints the Python suites with ruff, which is installed into the cache."""

import argparse
import subprocess
import sys

from harness import REPOSITORY
from harness.cases import say
from harness.install import InstallError
from harness.tools import install


def main():
    options = argparse.ArgumentParser(prog="tests/lint", description=__doc__)
    options.add_argument("--fix", action="store_true", help="format the files, and fix what can be fixed")
    chosen = options.parse_args()
    try:
        ruff = install(say, ["ruff"]).ruff
    except InstallError as error:
        sys.exit(f"ruff cannot be installed: {error}")
    checks = [["check", "--fix"], ["format"]] if chosen.fix else [["check"], ["format", "--diff"]]
    codes = [subprocess.run([ruff, *words, "--no-cache", "."], cwd=REPOSITORY / "tests").returncode for words in checks]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
