"""Builds the image of the agents and of the upstream.

It has Debian's curl, Python and `requests`, and Envoy from PyPI.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from harness.images import storage
from harness.install import Cache, command, debian

HERE = Path(__file__).resolve().parent
NAME = "idjag-agents:1"
PACKAGES = "curl,python3,python3-requests"
DOCKERFILE = """
FROM scratch
ADD rootfs.tar /
COPY envoy agent.py /usr/local/bin/
USER 1000:1000
"""


def archive(cache: Cache) -> Path:
    """The image's path, which depends on the recipe, the agent and Envoy's version."""
    parts = [DOCKERFILE, PACKAGES, str(cache.venv), (HERE / "agent.py").read_text()]
    return cache.root / f"agents-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}.tar"


def make(cache: Cache):
    debian("mmdebstrap", "buildah")
    rootfs = cache.root / "agents-rootfs.tar"
    if not rootfs.exists():
        options = ["--mode=root", "--variant=essential", f"--include={PACKAGES}"]
        part = rootfs.with_suffix(".part.tar")
        command(["mmdebstrap", *options, "", str(part), *sources()])
        part.rename(rootfs)
    with tempfile.TemporaryDirectory(prefix="agents-", dir=cache.root) as directory, storage() as buildah:
        context = Path(directory)
        (context / "Dockerfile").write_text(DOCKERFILE)
        shutil.copy(cache.envoy, context / "envoy")
        shutil.copy(HERE / "agent.py", context / "agent.py")
        (context / "rootfs.tar").hardlink_to(rootfs)
        command([*buildah, "bud", "--isolation=chroot", "-t", NAME, str(context)])
        part = archive(cache).with_suffix(".part.tar")
        part.unlink(missing_ok=True)
        command([*buildah, "push", NAME, f"docker-archive:{part}:{NAME}"])
        part.rename(archive(cache))


def sources() -> list[str]:
    """Returns this machine's Debian sources, from which mmdebstrap also takes the release."""
    places = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian*")]
    return [str(place) for place in places if place.exists()]
