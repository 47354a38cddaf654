"""The node's programs: Debian's are unpacked into the cache, others are built from Go modules."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from pathlib import Path

from harness.install import InstallError, cache_directory, command, debian

KUBERNETES = "1.34.2"
COREDNS = "1.12.4"

PROGRAMS = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"]
PACKAGES = ["etcd-server", "containerd", "runc", "containernetworking-plugins"]
# `k8s.io/kubernetes` replaces each of these modules by a directory of its repository. A module that
# requires it must name their releases.
STAGING = """
api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider
cluster-bootstrap code-generator component-base component-helpers controller-manager cri-api
cri-client csi-translation-lib dynamic-resource-allocation endpointslice externaljwt kms
kube-aggregator kube-controller-manager kube-proxy kube-scheduler kubectl kubelet metrics
mount-utils pod-security-admission sample-apiserver sample-cli-plugin sample-controller
""".split()
GO = {"GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"}
PAUSE = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
"""


class Programs:
    """The paths of the programs in the cache."""

    def __init__(self, root: Path):
        self.kubernetes = root / f"kubernetes-{KUBERNETES}"
        self.debian = root / "node-debian"

    @property
    def path(self) -> str:
        places = [self.kubernetes, self.debian / "usr/bin", self.debian / "usr/sbin"]
        return ":".join([*map(str, places), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

    @property
    def cni(self) -> Path:
        return self.debian / "usr/lib/cni"

    def missing(self) -> list[str]:
        parts = {"Kubernetes": self.kubernetes, "containerd and etcd": self.debian}
        return [name for name, target in parts.items() if not (target / ".complete").exists()]


def install(say) -> Programs:
    """Unpacks and builds what is missing.

    The first time takes 10 minutes on two cores, and up to 2 GB of memory.
    """
    root = cache_directory()
    debian("iptables", "openssl", "iproute2", commands=("iptables", "openssl", "ip"))
    programs = Programs(root)
    for name, target, step in [
        ("node-debian", programs.debian, _unpack_debian),
        ("kubernetes", programs.kubernetes, _build_kubernetes),
    ]:
        if (target / ".complete").exists():
            say(f"install: {name}: cached")
            continue
        started = time.monotonic()
        target.mkdir(parents=True, exist_ok=True)
        step(root, target)
        (target / ".complete").touch()
        say(f"install: {name}: {time.monotonic() - started:.0f} s")
    return programs


def _unpack_debian(_: Path, target: Path):
    if not shutil.which("apt-get"):
        raise InstallError("apt-get is missing; containerd, runc, etcd and the CNI plugins come from Debian's packages")
    download = ["apt-get", "download", "-qq", *PACKAGES]
    try:
        command(download, cwd=target)
    except InstallError:
        command(["apt-get", "update", "-qq"])
        command(download, cwd=target)
    for archive in target.glob("*.deb"):
        command(["dpkg-deb", "-x", str(archive), str(target)])
        archive.unlink()


def _build_kubernetes(root: Path, target: Path):
    version = "k8s.io/component-base/version"
    numbers = dict(zip(("gitMajor", "gitMinor"), KUBERNETES.split(".")[:2], strict=True)) | {
        "gitVersion": f"v{KUBERNETES}"
    }
    flags = " ".join(["-s", "-w", *(f"-X {version}.{name}={value}" for name, value in numbers.items())])
    minor = KUBERNETES.removeprefix("1.")
    replace = "\n".join(f"replace k8s.io/{one} => k8s.io/{one} v0.{minor}" for one in STAGING)
    module = go_module(root, "kubernetes", f"go 1.24.0\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n\n{replace}\n")
    for program in PROGRAMS:
        go_build(module, target, f"k8s.io/kubernetes/cmd/{program}", flags)
    module = go_module(root, "coredns", f"go 1.25\n\nrequire github.com/coredns/coredns v{COREDNS}\n")
    go_build(module, target, "github.com/coredns/coredns", "-s -w")
    module = go_module(root, "pause", "go 1.21\n")
    (module / "main.go").write_text(PAUSE)
    go_build(module, target, ".", "-s -w")


def go_module(root: Path, name: str, go_mod: str) -> Path:
    module = root / "build" / name
    module.mkdir(parents=True, exist_ok=True)
    (module / "go.mod").write_text(f"module {name}\n\n{go_mod}")
    return module


def go_build(module: Path, target: Path, package: str, flags: str, name: str = ""):
    name = name or (module.name if package == "." else package.rsplit("/", 1)[1])
    if (target / name).exists():
        return
    environment = os.environ | GO
    output = target / f"{name}.part"
    build = ["nice", "-n", "10", "go", "build", "-trimpath", "-ldflags", flags, "-o", str(output), package]
    command(build, cwd=module, env=environment)
    output.rename(target / name)


def write_image(archive: Path, name: str, program: Path, inside: str):
    """Writes a docker-archive of a single program."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        entry = files.gettarinfo(str(program), inside.lstrip("/"))
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        with program.open("rb") as content:
            files.addfile(entry, content)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": [inside]}, "rootfs": rootfs})
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}])
    with tarfile.open(archive, "w") as files:
        contents = {"config.json": config.encode(), "layer.tar": layer.getvalue(), "manifest.json": manifest.encode()}
        for file, content in contents.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
