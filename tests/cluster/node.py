"""A real Kubernetes of one node on this machine, without Docker and without an image registry.

etcd, containerd, runc and the CNI plugins are Debian's, unpacked into the cache and not installed, so that no service starts. Kubernetes'
own programs and CoreDNS are built from their Go modules. Pods live in 10.244.0.0/24 and reach this machine at 10.244.0.1; there is
no other way out. Only Python's own library is used, so that `tests/cluster/node` works before anything is installed.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "real"))

from install import InstallError, cache_directory, command, debian  # noqa: E402
from parts import Failed, Run, expect, fetch, wait_until  # noqa: E402

KUBERNETES = "1.34.2"
COREDNS = "1.12.4"
NAME = "node-1"
BRIDGE = "idjag0"
# This machine, as pods see it.
HOST = "10.244.0.1"
PODS = "10.244.0.0/24"
SERVICES, FIRST_SERVICE = "10.0.0.0/24", "10.0.0.1"
# Not the usual ports: another cluster's may be here.
API_PORT, ETCD_PORT, ETCD_PEER_PORT = 16443, 12379, 12380
PROXY_HEALTH_PORT, PROXY_METRICS_PORT = 12256, 12249
API = f"https://127.0.0.1:{API_PORT}"
KUBELET_DIRECTORY = Path("/var/lib/kubelet")
ISSUER = "https://kubernetes.default.svc.cluster.local"

PROGRAMS = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"]
PACKAGES = ["etcd-server", "containerd", "runc", "containernetworking-plugins"]
# `k8s.io/kubernetes` replaces each of these by a folder of its own repository; a module that requires it must say which release.
STAGING = """
api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider cluster-bootstrap code-generator component-base
component-helpers controller-manager cri-api cri-client csi-translation-lib dynamic-resource-allocation endpointslice externaljwt kms
kube-aggregator kube-controller-manager kube-proxy kube-scheduler kubectl kubelet metrics mount-utils pod-security-admission
sample-apiserver sample-cli-plugin sample-controller
""".split()
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
# In the order in which they start; they end in the other.
COMPONENTS = [
    "containerd", "etcd", "apiserver", "controller-manager", "scheduler", "kubelet", "proxy", "coredns",
]  # fmt: skip


class Programs:
    """Where the programs are in the cache."""

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
    """Unpacks and builds what is missing: 10 minutes on two cores the first time, with up to 2 GB of memory."""
    root = cache_directory()
    debian("iptables", "openssl")
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
        raise InstallError("no apt-get: containerd, runc, etcd and the CNI plugins are taken from Debian's packages")
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
    numbers = dict(zip(("gitMajor", "gitMinor"), KUBERNETES.split("."))) | {"gitVersion": f"v{KUBERNETES}"}
    flags = " ".join(["-s", "-w", *(f"-X {version}.{name}={value}" for name, value in numbers.items())])
    minor = KUBERNETES.removeprefix("1.")
    replace = "\n".join(f"replace k8s.io/{one} => k8s.io/{one} v0.{minor}" for one in STAGING)
    module = _module(root, "kubernetes", f"go 1.24.0\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n\n{replace}\n")
    for program in PROGRAMS:
        _go_build(module, target, f"k8s.io/kubernetes/cmd/{program}", flags)
    module = _module(root, "coredns", f"go 1.25\n\nrequire github.com/coredns/coredns v{COREDNS}\n")
    _go_build(module, target, "github.com/coredns/coredns", "-s -w")
    module = _module(root, "pause", "go 1.21\n")
    (module / "main.go").write_text(PAUSE)
    _go_build(module, target, ".", "-s -w")


def _module(root: Path, name: str, go_mod: str) -> Path:
    module = root / "build" / name
    module.mkdir(parents=True, exist_ok=True)
    (module / "go.mod").write_text(f"module {name}\n\n{go_mod}")
    return module


def _go_build(module: Path, target: Path, package: str, flags: str):
    name = module.name if package == "." else package.rsplit("/", 1)[1]
    if (target / name).exists():
        return
    environment = os.environ | {"GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"}
    output = target / f"{name}.part"
    command(["nice", "-n", "10", "go", "build", "-trimpath", "-ldflags", flags, "-o", str(output), package], cwd=module, env=environment)
    output.rename(target / name)


class Node:
    """`up` returns once the node is Ready. What it needs to be ended is in its directory, so that another process can, too."""

    def __init__(self, programs: Programs, directory: Path | None = None):
        self.programs = programs
        self.directory = directory or Path(tempfile.gettempdir()) / "idjag-node"
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.pki = self.directory / "pki"
        self.run: Run | None = None

    def up(self):
        if alive := self._alive():
            raise Failed(f"a node is already up in {self.directory} ({', '.join(alive)}): tests/cluster/node down")
        self.down()
        if routes := _output("ip", "-4", "route", "show", PODS):
            raise Failed(f"{PODS} is in use on this machine: {routes.splitlines()[0]}")
        if "KUBE-SERVICES" in _output("iptables-save"):
            raise Failed("another Kubernetes has its rules on this machine: iptables-save | grep KUBE-SERVICES")
        self.run = Run(self.directory)
        for name in ("pids", "cni"):
            (self.directory / name).mkdir()
        # The kubelet makes it, wherever its own directory is.
        if not KUBELET_DIRECTORY.exists():
            (self.directory / "no-kubelet-directory").touch()
        self._make_certificates()
        self._write_configurations()
        self._make_bridge()
        for name in COMPONENTS:
            self.start(name)
        self.wait_ready()

    @contextlib.contextmanager
    def whole_or_not_at_all(self):
        """Nothing is left of a node that does not come up."""
        try:
            yield
        except BaseException:
            self.down()
            raise

    def wait_ready(self):
        ready = lambda: " Ready " in self._try_kubectl("get", "node", NAME, "--no-headers")
        wait_until("the node to be Ready", ready, 120)
        wait_until("the default service account", lambda: self._try_kubectl("get", "serviceaccount", "default"), 60)
        ended = [name for name in COMPONENTS if not self._alive_one(name)]
        expect(not ended, f"ended: {ended}; see {self.directory}/logs")

    def start(self, name: str):
        """One component, after what it needs."""
        environment = {"PATH": self.programs.path}
        self.run = self.run or Run(self.directory)
        part = self.run.start(name, self._command(name), environment)
        (self.directory / "pids" / name).write_text(f"{part.process.pid} {_started(part.process.pid)}")
        match name:
            case "containerd":
                wait_until("containerd", lambda: self._ctr("version").returncode == 0, 30, part)
                self._load_pause()
            case "etcd":
                health = f"http://127.0.0.1:{ETCD_PORT}/health"
                wait_until("etcd", lambda: fetch(health)[0] == 200, 30, part)
            case "apiserver":
                wait_until("the API server", lambda: self._try_kubectl("get", "--raw", "/readyz") == "ok", 90, part)
            case "proxy":
                health = f"http://127.0.0.1:{PROXY_HEALTH_PORT}/healthz"
                wait_until("kube-proxy", lambda: fetch(health)[0] == 200, 60, part)

    def stop(self, name: str, how: int = signal.SIGTERM):
        file = self.directory / "pids" / name
        if not file.exists():
            return
        pid, started = map(int, file.read_text().split())
        if _started(pid) == started:
            os.kill(pid, how)
            _wait_for_end(pid, started, 15)
        file.unlink()

    def restart(self, name: str):
        self.stop(name)
        self.start(name)

    def down(self):
        """Ends what is there, as far as it is there; never fails for something that is missing."""
        if not self.directory.exists():
            return
        self.stop("kubelet")
        if self._alive_one("containerd"):
            tasks = self._ctr("-n", "k8s.io", "task", "ls", "-q").stdout.split()
            if tasks:
                self._ctr("-n", "k8s.io", "task", "rm", "-f", *tasks)
        for name in reversed(COMPONENTS):
            self.stop(name)
        if (self.directory / "proxy.yaml").exists():
            self._remove_rules()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for link in Path("/var/log/containers").glob("*"):
            if os.readlink(link).startswith(f"{self.directory}/"):
                link.unlink()
        for mount in sorted((one for one in mounts if one.startswith(f"{self.directory}/")), reverse=True):
            subprocess.run(["umount", "-l", mount], capture_output=True)
        self._remove_network()
        if (self.directory / "no-kubelet-directory").exists():
            shutil.rmtree(KUBELET_DIRECTORY, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def kubectl(self, *words: str, manifest: str | None = None, timeout: float = 60) -> str:
        """What it prints; `Failed` with what it says where it fails. `manifest` is its standard input."""
        done = self.ask_kubectl(*words, manifest=manifest, timeout=timeout)
        if done.returncode != 0:
            raise Failed(f"kubectl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def ask_kubectl(self, *words: str, manifest: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess:
        argv = [self.programs.kubernetes / "kubectl", "--kubeconfig", self.kubeconfig, *words]
        try:
            return subprocess.run(argv, input=manifest, capture_output=True, text=True, timeout=timeout, env=self.environment())
        except subprocess.TimeoutExpired as late:
            raise Failed(f"kubectl {' '.join(words)}: no answer within {timeout:.0f} s") from late

    def load(self, *archives: Path):
        """Images, each a docker-archive."""
        for archive in archives:
            done = self._ctr("-n", "k8s.io", "images", "import", str(archive))
            if done.returncode != 0:
                raise Failed(f"{archive} cannot be imported: {done.stderr.strip()}")

    def tag(self, image: str, name: str):
        """Gives an image that is loaded another name."""
        done = self._ctr("-n", "k8s.io", "images", "tag", f"docker.io/library/{image}", f"docker.io/library/{name}")
        if done.returncode != 0:
            raise Failed(f"{image} cannot be called {name}: {done.stderr.strip()}")

    def process_of(self, container_id: str) -> int:
        """The pid, on this machine, of a container's first process. `container_id` as a pod's status has it."""
        wanted = container_id.removeprefix("containerd://")
        for line in self._ctr("-n", "k8s.io", "task", "ls").stdout.splitlines()[1:]:
            task, pid, _ = line.split()
            if task == wanted:
                return int(pid)
        raise Failed(f"container {wanted} does not run")

    def _try_kubectl(self, *words: str) -> str:
        done = self.ask_kubectl(*words)
        return done.stdout if done.returncode == 0 else ""

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return kept | {"PATH": self.programs.path}

    def _ctr(self, *words: str) -> subprocess.CompletedProcess:
        argv = ["ctr", "-a", str(self.directory / "containerd.sock"), *words]
        return subprocess.run(argv, capture_output=True, text=True, env=self.environment())

    def _alive_one(self, name: str) -> bool:
        file = self.directory / "pids" / name
        if not file.exists():
            return False
        pid, started = map(int, file.read_text().split())
        return _started(pid) == started

    def _alive(self) -> list[str]:
        return [name for name in COMPONENTS if self._alive_one(name)]

    def _load_pause(self):
        pause, archive = "docker.io/library/pause:1", self.directory / "pause.tar"
        _write_image(archive, pause, self.programs.kubernetes / "pause", "/pause")
        self.load(archive)
        archive.unlink()

    # --- Certificates

    def _make_certificates(self):
        self.pki.mkdir()
        self._openssl("req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "7", "-subj", "/CN=test-ca")
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "service-accounts.key")
        self._openssl("pkey", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub")
        names = [f"IP:{one}" for one in ("127.0.0.1", HOST, FIRST_SERVICE)]
        names += [f"DNS:{one}" for one in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")]
        self.certificate("apiserver", "/CN=kube-apiserver", f"subjectAltName={','.join(names)}")
        for name, subject in {
            "admin": "/O=system:masters/CN=admin",
            "controller-manager": "/CN=system:kube-controller-manager",
            "scheduler": "/CN=system:kube-scheduler",
            "proxy": "/CN=system:kube-proxy",
            "kubelet": f"/O=system:nodes/CN=system:node:{NAME}",
            "coredns": "/O=system:masters/CN=coredns",
        }.items():
            self.certificate(name, subject)
            self._write_kubeconfig(name)

    def certificate(self, name: str, subject: str, extensions: str = ""):
        """`pki/<name>.pem` and `pki/<name>.key`, by the node's own authority `pki/ca.pem`."""
        self._openssl("req", *_NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        (self.pki / f"{name}.ext").write_text(extensions)
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "7", "-extfile", f"{name}.ext"]
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)

    def _openssl(self, *words: str):
        command(["openssl", *words], cwd=self.pki)

    def _write_kubeconfig(self, name: str):
        user = {"client-certificate": f"{self.pki}/{name}.pem", "client-key": f"{self.pki}/{name}.key"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "node", "cluster": {"server": API, "certificate-authority": f"{self.pki}/ca.pem"}}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "node", "context": {"cluster": "node", "user": name}}],
            "current-context": "node",
        }
        self._kubeconfig(name).write_text(json.dumps(config))

    def _kubeconfig(self, name: str) -> Path:
        return self.directory / f"{name}.kubeconfig"

    # --- Network

    def _make_bridge(self):
        """Before the first pod, so that its address can be advertised and listened on."""
        for words in [["add", BRIDGE, "type", "bridge"], ["set", BRIDGE, "up"]]:
            command(["ip", "link", *words])
        command(["ip", "address", "add", f"{HOST}/24", "dev", BRIDGE])
        forward = Path("/proc/sys/net/ipv4/ip_forward")
        (self.directory / "ip_forward").write_text(forward.read_text())
        forward.write_text("1")

    def _remove_rules(self):
        cleanup = [self.programs.kubernetes / "kube-proxy", "--cleanup"]
        subprocess.run(cleanup, capture_output=True, env=self.environment(), timeout=60)
        # This one it leaves.
        for tables in ("iptables", "ip6tables"):
            for words in ("-D INPUT -j", "-D OUTPUT -j", "-F", "-X"):
                subprocess.run([tables, *words.split(), "KUBE-FIREWALL"], capture_output=True)

    def _remove_network(self):
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv4/ip_forward").write_text((self.directory / "ip_forward").read_text())

    # --- Configurations and commands

    def _write_configurations(self):
        (self.directory / "containerd.toml").write_text(_CONTAINERD.format(directory=self.directory, cni=self.programs.cni))
        (self.directory / "cni" / "10-pods.conflist").write_text(json.dumps(self._cni()))
        (self.directory / "kubelet.yaml").write_text(json.dumps(self._kubelet()))
        (self.directory / "proxy.yaml").write_text(json.dumps(self._proxy()))
        (self.directory / "Corefile").write_text(_COREFILE.format(host=HOST, kubeconfig=self._kubeconfig("coredns")))

    def _cni(self) -> dict:
        addresses = {"type": "host-local", "dataDir": f"{self.directory}/addresses", "ranges": [[{"subnet": PODS}]]}
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipMasq": False}
        return {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                bridge | {"ipam": addresses | {"routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }

    def _kubelet(self) -> dict:
        certificates = {"clientCAFile": f"{self.pki}/ca.pem"}
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.directory}/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "address": HOST,
            "healthzPort": 0,
            # kube-proxy's rules are enough, and go with it.
            "makeIPTablesUtilChains": False,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": certificates},
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [HOST],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
            "podLogsDir": f"{self.directory}/pod-logs",
            # The default of a minute is how late a changed ConfigMap may reach a pod.
            "syncFrequency": "5s",
        }

    def _proxy(self) -> dict:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self._kubeconfig("proxy"))},
            "mode": "iptables",
            # Two pods on one bridge: the answer must come back through this machine, which knows the service's address.
            "iptables": {"masqueradeAll": True},
            "clusterCIDR": PODS,
            "hostnameOverride": NAME,
            "healthzBindAddress": f"127.0.0.1:{PROXY_HEALTH_PORT}",
            "metricsBindAddress": f"127.0.0.1:{PROXY_METRICS_PORT}",
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }

    def _command(self, name: str) -> list[str]:
        bin, pki, kubeconfig = self.programs.kubernetes, self.pki, lambda: f"--kubeconfig={self._kubeconfig(name)}"
        etcd = f"http://127.0.0.1:{ETCD_PORT}"
        match name:
            case "containerd":
                return ["containerd", "-c", f"{self.directory}/containerd.toml"]
            case "etcd":
                peers = f"http://127.0.0.1:{ETCD_PEER_PORT}"
                addresses = ["--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peers]
                start = ["--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}", "--log-level", "warn"]
                return ["etcd", "--data-dir", f"{self.directory}/etcd", *addresses, *start]
            case "apiserver":
                return [
                    f"{bin}/kube-apiserver",
                    f"--etcd-servers={etcd}",
                    "--bind-address=0.0.0.0",
                    f"--advertise-address={HOST}",
                    f"--secure-port={API_PORT}",
                    f"--tls-cert-file={pki}/apiserver.pem",
                    f"--tls-private-key-file={pki}/apiserver.key",
                    f"--client-ca-file={pki}/ca.pem",
                    f"--service-account-issuer={ISSUER}",
                    f"--service-account-signing-key-file={pki}/service-accounts.key",
                    f"--service-account-key-file={pki}/service-accounts.pub",
                    f"--service-cluster-ip-range={SERVICES}",
                    "--authorization-mode=Node,RBAC",
                    "--enable-admission-plugins=NodeRestriction",
                    "--allow-privileged=true",
                    f"--kubelet-client-certificate={pki}/admin.pem",
                    f"--kubelet-client-key={pki}/admin.key",
                    "--kubelet-preferred-address-types=InternalIP",
                ]
            case "controller-manager":
                return [
                    f"{bin}/kube-controller-manager",
                    kubeconfig(),
                    f"--service-account-private-key-file={pki}/service-accounts.key",
                    f"--root-ca-file={pki}/ca.pem",
                    f"--cluster-signing-cert-file={pki}/ca.pem",
                    f"--cluster-signing-key-file={pki}/ca.key",
                    "--use-service-account-credentials",
                    "--leader-elect=false",
                    "--secure-port=0",
                ]
            case "scheduler":
                return [f"{bin}/kube-scheduler", kubeconfig(), "--leader-elect=false", "--secure-port=0"]
            case "kubelet":
                files = [f"--config={self.directory}/kubelet.yaml", f"--root-dir={self.directory}/kubelet"]
                files.append(f"--cert-dir={self.directory}/kubelet/pki")
                return [f"{bin}/kubelet", kubeconfig(), *files, f"--hostname-override={NAME}", f"--node-ip={HOST}"]
            case "proxy":
                return [f"{bin}/kube-proxy", f"--config={self.directory}/proxy.yaml"]
            case "coredns":
                return [f"{bin}/coredns", "-conf", f"{self.directory}/Corefile"]
        raise ValueError(name)


_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

# `restrict_oom_score_adj`: without CAP_SYS_RESOURCE no container would start.
_CONTAINERD = """
version = 2
root = "{directory}/containerd"
state = "{directory}/containerd-state"
[grpc]
  address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:1"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{directory}/cni"
"""

_COREFILE = """
cluster.local:53 {{
  bind {host}
  kubernetes cluster.local {{
    kubeconfig {kubeconfig}
  }}
}}
.:53 {{
  bind {host}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def _write_image(archive: Path, name: str, program: Path, inside: str):
    """A docker-archive of one program."""
    import hashlib
    import io
    import tarfile

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


def _started(pid: int) -> int | None:
    """When a process began, in the kernel's ticks: with the pid it names one process for good. None once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _wait_for_end(pid: int, started: int, seconds: float):
    try:
        wait_until(f"the end of process {pid}", lambda: _started(pid) != started, seconds, every=0.05)
    except Failed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(f"the end of process {pid}", lambda: _started(pid) != started, 10, every=0.05)
    # Where it was our own child, its entry goes with this.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True).stdout


def main():
    options = argparse.ArgumentParser(prog="tests/cluster/node", description="a real Kubernetes of one node on this machine")
    commands = options.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="fill the cache with what it needs")
    commands.add_parser("up", help="start it; prints the path of its kubeconfig")
    commands.add_parser("down", help="end it and remove all that it left")
    kubectl = commands.add_parser("kubectl", help="kubectl against it")
    kubectl.add_argument("words", nargs=argparse.REMAINDER)
    load = commands.add_parser("load", help="import images")
    load.add_argument("archives", nargs="+", type=Path)
    chosen = options.parse_args()
    say = lambda line: print(line, file=sys.stderr, flush=True)
    try:
        if chosen.command in ("build", "up"):
            install(say)
        node = Node(Programs(cache_directory()))
        match chosen.command:
            case "up":
                with node.whole_or_not_at_all():
                    node.up()
                print(node.kubeconfig)
            case "down":
                node.down()
            case "kubectl":
                kubectl = node.programs.kubernetes / "kubectl"
                os.execv(kubectl, [str(kubectl), "--kubeconfig", str(node.kubeconfig), *chosen.words])
            case "load":
                node.load(*chosen.archives)
    except (Failed, InstallError) as error:
        sys.exit(f"node: {error}")


if __name__ == "__main__":
    main()
