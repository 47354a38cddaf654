"""Checks the spelling of the whole repository with typos, which is installed into the cache.

The exceptions are in `.typos.toml`.
"""

import subprocess
import sys

from harness import REPOSITORY
from harness.cases import say
from harness.install import InstallError
from harness.tools import install


def main():
    try:
        typos = install(say, ["typos"]).typos
    except InstallError as error:
        sys.exit(f"typos cannot be installed: {error}")
    sys.exit(subprocess.run([typos], cwd=REPOSITORY).returncode)


if __name__ == "__main__":
    main()
