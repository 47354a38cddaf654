"""Builds the images of the sidecar and of the injector as docker-archives, and checks them."""

import argparse
import sys
from pathlib import Path

from harness.cases import Runner, say
from harness.images import Images, compile, install, pack, version, write_bills
from harness.install import InstallError, cache_directory
from image.checks import check


def main():
    options = argparse.ArgumentParser(prog="tests/image/build", description=__doc__)
    options.add_argument("--profile", default="dist", help="dist (default), or release, which is quicker and larger")
    output = cache_directory() / "images"
    options.add_argument("--output", type=Path, default=output, help="default: images/ in the cache")
    options.add_argument("--check", action="store_true", help="only check existing images")
    chosen = options.parse_args()
    runner, images = Runner("not run"), Images(chosen.output.resolve(), version())
    try:
        if not chosen.check:
            make(images, chosen.profile)
    except InstallError as error:
        runner.failed("image: the images cannot be built", str(error))
    else:
        check(runner, images, chosen.profile)
    sys.exit(runner.finish())


def make(images: Images, profile: str):
    images.directory.mkdir(parents=True, exist_ok=True)
    environment = install(say, bill=True)
    compile(say, environment, profile, images)
    write_bills(environment, images)
    pack(images)


if __name__ == "__main__":
    main()
