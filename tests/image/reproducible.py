"""Builds both images twice and compares them.

Each build has its own copy of the source, registry and target directory.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import REPOSITORY
from harness.cases import Runner, expect, say
from harness.images import IMAGES, Images, compile, install, pack, version, write_bills
from harness.install import InstallError, command


def main():
    runner = Runner("not run")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="idjag-twice-") as directory:
        try:
            digests = [make(Path(directory) / place) for place in ("one", "another/and/deeper")]
        except InstallError as error:
            runner.failed("reproducible: the images cannot be built", str(error))
            sys.exit(runner.finish())
    for name, first in digests[0].items():
        runner.run(f"reproducible: {name}", same, first, digests[1][name])
    say(f"built twice: {time.monotonic() - started:.0f} s")
    sys.exit(runner.finish())


def same(first: str, second: str) -> str:
    expect(first == second, f"{first[:16]} and {second[:16]}")
    return first[:16]


def make(place: Path) -> dict[str, str]:
    """Builds in a clone at `place` and returns the digests."""
    source = place / "source"
    place.mkdir(parents=True)
    command(["git", "clone", "--quiet", str(REPOSITORY), str(source)])
    images = Images(place / "images", version(source))
    images.directory.mkdir()
    environment = install(say, bill=True)
    environment |= {"CARGO_TARGET_DIR": str(place / "target"), "CARGO_HOME": str(registry(environment, place))}
    compile(say, environment, "dist", images, source)
    write_bills(environment, images, source)
    pack(images, source)
    shutil.rmtree(place / "target")
    digests = {}
    for target, name in IMAGES.items():
        for what, file in {
            "program": images.program(target),
            "image": images.archive(target),
            "bill": images.bill(target),
        }.items():
            digests[f"{name}: {what}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return digests


def registry(environment: dict, place: Path) -> Path:
    """Makes a cargo home with a copy of the existing registry."""
    home = place / "cargo-home"
    home.mkdir()
    known = Path(environment.get("CARGO_HOME") or Path.home() / ".cargo")
    if (known / "registry").exists():
        subprocess.run(["cp", "-a", str(known / "registry"), str(home / "registry")], check=True)
    return home


if __name__ == "__main__":
    main()
