"""What the cluster suite needs in the cache, and whether this machine can run it."""

import os
import shutil
import subprocess
import sys
import time

from cluster import agents_image, controller_manager, node_programs
from harness import images, tools
from harness.install import Cache, InstallError, cache_directory, install_parts

REAL_PARTS = {"python", "keycloak", "spire"}


def impossible() -> str | None:
    """Returns the reason why this machine cannot be a node, if there is one."""
    if sys.platform != "linux":
        return "it needs Linux"
    if os.getuid() != 0:
        return "it needs root: containers, network namespaces and iptables"
    # In a container even root may lack these.
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return "it needs write access to control groups"
    bridge = ["ip", "link", "add", "probe", "type", "bridge"] if shutil.which("ip") else ["true"]
    done = subprocess.run(["unshare", "--net", "--mount", *bridge], capture_output=True, text=True)
    if done.returncode != 0:
        return f"it needs to create namespaces and bridges: {done.stderr.strip()}"
    return None


def missing() -> list[str]:
    """Returns the parts that are not cached, except Debian packages and Rust targets.

    Those are installed in seconds.
    """
    cache = Cache(cache_directory())
    targets = {
        "the Python packages": cache.venv,
        "Keycloak": cache.keycloak,
        "SPIRE": cache.spire,
        "SPIRE's controller manager": controller_manager.place(cache.root),
        "helm": tools.Tools(cache.root).helm3.parent,
        "cargo-auditable": cache.root / f"cargo-auditable-{images.AUDITABLE}",
    }
    wanting = [name for name, target in targets.items() if not (target / ".complete").exists()]
    wanting += node_programs.Programs(cache.root).missing()
    if not agents_image.archive(cache).exists():
        wanting.append("the agents' image")
    return wanting


def install(say) -> Cache:
    """Fills the cache. `Cache.missing` has the reason for each part that cannot be installed."""
    cache = install_parts(say, only=REAL_PARTS)
    steps = {
        "node": lambda: node_programs.install(say),
        "controller manager": lambda: controller_manager.install(say),
        "helm": lambda: tools.install(say, ["helm3"]),
        "compiler": lambda: images.install(say),
        "agents": lambda: _agents(say, cache),
    }
    for name, step in steps.items():
        try:
            step()
        except (InstallError, OSError) as error:
            cache.missing[name] = str(error)
            say(f"install: {name}: failed: {error}")
    return cache


def _agents(say, cache: Cache):
    archive = agents_image.archive(cache)
    if archive.exists():
        say("install: agents: cached")
        return
    started = time.monotonic()
    for old in cache.root.glob("agents-????????.tar"):
        old.unlink()
    agents_image.make(cache)
    say(f"install: agents: {time.monotonic() - started:.0f} s")
