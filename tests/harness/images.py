"""Builds the images of the sidecar and of the injector with buildah, as docker-archives."""

import contextlib
import os
import platform
import subprocess
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness import REPOSITORY
from harness.install import cache_directory, command, debian

AUDITABLE = "0.7.7"
CYCLONEDX = "0.5.9"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# The Dockerfile's target, and the name of its image and of its program.
IMAGES = {"sidecar": "idjag-proxy", "injector": "idjag-proxy-injector"}
FEATURES = {"sidecar": "", "injector": "kubernetes"}


@dataclass
class Images:
    """A directory of images.

    `<architecture>/<name>` is the program, `<name>.tar` the image, `<name>.cdx.json` the bill of
    materials.
    """

    directory: Path
    version: str

    def program(self, target: str) -> Path:
        return self.directory / architecture() / IMAGES[target]

    def archive(self, target: str) -> Path:
        return self.directory / f"{IMAGES[target]}.tar"

    def bill(self, target: str) -> Path:
        return self.directory / f"{IMAGES[target]}.cdx.json"

    def name(self, target: str) -> str:
        return f"{IMAGES[target]}:{self.version}"


def architecture() -> str:
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def version(source: Path = REPOSITORY) -> str:
    return tomllib.loads((source / "Cargo.toml").read_text())["package"]["version"]


def install(say, bill: bool = False) -> dict[str, str]:
    """Installs the compiler for musl, cargo's commands and buildah.

    Returns the environment in which cargo finds them. `bill` adds what `write_bills` needs.
    """
    debian("gcc", "musl-tools", "buildah", commands=("cc", "musl-gcc", "buildah"))
    target = f"{platform.machine()}-unknown-linux-musl"
    libraries = command(["rustc", "--print", "target-libdir", "--target", target]).strip()
    if not Path(libraries).exists():
        command(["rustup", "target", "add", target])
    paths = []
    for tool, wanted in {"cargo-auditable": AUDITABLE, "cargo-cyclonedx": CYCLONEDX}.items():
        if tool == "cargo-cyclonedx" and not bill:
            continue
        place = cache_directory() / f"{tool}-{wanted}"
        paths.append(str(place / "bin"))
        if not (place / ".complete").exists():
            started = time.monotonic()
            command(["cargo", "install", "--quiet", "--locked", "--root", str(place), f"{tool}@{wanted}"])
            (place / ".complete").touch()
            say(f"install: {tool}: {time.monotonic() - started:.0f} s")
    return os.environ | {"PATH": ":".join([*paths, os.environ["PATH"]])}


def compile(say, environment: dict, profile: str, images: Images, source: Path = REPOSITORY):
    started = time.monotonic()
    programs = images.directory / architecture()
    command([str(source / "tests/image/compile"), profile, str(programs)], env=environment)
    say(f"compile: {profile}: {time.monotonic() - started:.0f} s")


def write_bills(environment: dict, images: Images, source: Path = REPOSITORY):
    """Writes a CycloneDX file for each program, according to the features that it is built with."""
    target = f"{platform.machine()}-unknown-linux-musl"
    # cargo-cyclonedx writes next to Cargo.toml; its files are moved away at once.
    reproducible = environment | {"SOURCE_DATE_EPOCH": str(timestamp(source))}
    for one, features in FEATURES.items():
        name = f"{IMAGES[one]}-bill"
        words = f"--format json --spec-version 1.5 --target {target} --override-filename {name} --no-default-features"
        chosen = ["--features", features] if features else []
        command(["cargo", "cyclonedx", *words.split(), *chosen], cwd=source, env=reproducible)
        # It names our own package by the path of the source, which differs between machines.
        bill = (source / f"{name}.json").read_text().replace(f"path+file://{source.resolve()}", "path+file:///src")
        images.bill(one).write_text(bill)
        (source / f"{name}.json").unlink()


def pack(images: Images, source: Path = REPOSITORY):
    """Packs the compiled programs by the last stages of the Dockerfile."""
    with storage() as buildah:
        for target in IMAGES:
            arguments = ["BINARIES=given", f"VERSION={images.version}", f"REVISION={revision(source)}"]
            stamp = str(timestamp(source))
            build = ["bud", "--isolation=chroot", "--target", target, "--timestamp", stamp, "-t", images.name(target)]
            build += [word for one in arguments for word in ("--build-arg", one)]
            command([*buildah, *build, "-f", str(source / "Dockerfile"), str(images.directory)])
            images.archive(target).unlink(missing_ok=True)
            archive = f"docker-archive:{images.archive(target)}:{images.name(target)}"
            command([*buildah, "push", images.name(target), archive])


@contextlib.contextmanager
def storage():
    """Yields buildah's command with a temporary storage that needs nothing of the kernel."""
    with tempfile.TemporaryDirectory(prefix="idjag-buildah-") as directory:
        yield ["buildah", "--storage-driver=vfs", "--root", f"{directory}/root", "--runroot", f"{directory}/run"]


def revision(source: Path) -> str:
    return _git(source, "rev-parse", "HEAD") or "unknown"


def timestamp(source: Path) -> int:
    """Returns the commit's time, so that the same source makes the same image."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _git(source, "log", "-1", "--format=%ct") or 0)


def _git(source: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(source), *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
