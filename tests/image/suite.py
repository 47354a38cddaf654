"""Makes the images of the sidecar and of the injector with buildah, as docker-archives; and checks what is in them."""

import argparse
import sys
from pathlib import Path

from harness.images import Images, compile, install, pack, version, write_bills
from harness.install import InstallError, cache_directory
from image.checks import check


def main():
    options = argparse.ArgumentParser(prog="tests/image/build", description=__doc__)
    options.add_argument("--profile", default="dist", help="dist (default), or release: quicker, and larger")
    options.add_argument(
        "--output", type=Path, default=cache_directory() / "images", help="default: images/ of the cache"
    )
    options.add_argument("--check", action="store_true", help="only check what is there already")
    chosen = options.parse_args()
    say = lambda line: print(line, flush=True)
    images = Images(chosen.output.resolve(), version())
    if chosen.check:
        sys.exit(1 if check(say, images, chosen.profile) else 0)
    images.directory.mkdir(parents=True, exist_ok=True)
    try:
        environment = install(say, bill=True)
        compile(say, environment, chosen.profile, images)
        write_bills(environment, images)
        pack(images)
    except InstallError as error:
        say(f"FAILED   image: {error}\n0 passed, 1 failed, 0 not run")
        sys.exit(1)
    sys.exit(1 if check(say, images, chosen.profile) else 0)


if __name__ == "__main__":
    main()
