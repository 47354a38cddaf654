"""Builds SPIRE's controller manager, which registers pods according to ClusterSPIFFEIDs."""

import os
import shutil
import time
from pathlib import Path

from cluster.node_programs import GO, go_build, go_module
from harness.install import cache_directory, command

# The version of SPIRE's chart 0.30.
VERSION = "0.7.0"
PACKAGE = "github.com/spiffe/spire-controller-manager"


def place(root: Path) -> Path:
    """Returns the directory of the program, with the CRDs in `crds`."""
    return root / f"spire-controller-manager-{VERSION}"


def install(say):
    root = cache_directory()
    target = place(root)
    if (target / ".complete").exists():
        say("install: controller manager: cached")
        return
    started = time.monotonic()
    target.mkdir(parents=True, exist_ok=True)
    module = go_module(root, "spire-controller-manager", f"go 1.26\n\nrequire {PACKAGE} v{VERSION}\n")
    go_build(module, target, f"{PACKAGE}/cmd", "-s -w", "spire-controller-manager")
    source = command(["go", "list", "-m", "-f", "{{.Dir}}", PACKAGE], cwd=module, env=os.environ | GO).strip()
    (target / "crds").mkdir(exist_ok=True)
    for crd in Path(source, "config/crd/bases").glob("*.yaml"):
        # The mode is not copied because files of Go's module cache are read-only.
        shutil.copyfile(crd, target / "crds" / crd.name)
    (target / ".complete").touch()
    say(f"install: controller manager: {time.monotonic() - started:.0f} s")
