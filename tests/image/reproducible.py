"""Makes both images twice, from copies of the source in two places with two registries and two target directories, and compares."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import REPOSITORY
from harness.images import IMAGES, Images, compile, install, pack, version, write_bills
from harness.install import InstallError, command


def main():
    say = lambda line: print(line, flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="idjag-twice-") as directory:
        try:
            digests = [make(say, Path(directory) / place) for place in ("one", "another/and/deeper")]
        except InstallError as error:
            say(f"FAILED   reproducible: {error}\n0 passed, 1 failed, 0 not run")
            sys.exit(1)
    failed = 0
    for name, first in digests[0].items():
        same = first == digests[1][name]
        failed += not same
        say(
            f"{'ok      ' if same else 'FAILED  '} reproducible: {name}: {first[:16]}{'' if same else f' and {digests[1][name][:16]}'}"
        )
    say(f"{len(digests[0]) - failed} passed, {failed} failed, 0 not run; {time.monotonic() - started:.0f} s")
    sys.exit(1 if failed else 0)


def make(say, place: Path) -> dict[str, str]:
    """The digests of what a checkout at `place` makes."""
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
    """A cargo home of its own, with what was downloaded already."""
    home = place / "cargo-home"
    home.mkdir()
    known = Path(environment.get("CARGO_HOME") or Path.home() / ".cargo")
    if (known / "registry").exists():
        subprocess.run(["cp", "-a", str(known / "registry"), str(home / "registry")], check=True)
    return home


if __name__ == "__main__":
    main()
