"""A real Kubernetes node on this machine, without Docker and without an image registry.

etcd, containerd, runc and the CNI plugins are Debian's, unpacked into the cache and not installed,
so that no service starts. Kubernetes and CoreDNS are built from their Go modules. Pods are in
10.244.0.0/24 and reach this machine at 10.244.0.1, and nothing else outside the cluster. Only
Python's standard library is used, so that `tests/cluster/node` works before anything is installed.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from cluster.node_programs import Programs, install, write_image
from cluster.node_settings import BRIDGE, ETCD_PORT, HOST, NAME, PODS, PROXY_HEALTH_PORT, Settings
from harness.cases import Failed, expect
from harness.install import InstallError, cache_directory, command
from harness.parts import Run, fetch, wait_until

# The kubelet and the CNI library create these in spite of their settings.
ELSEWHERE = [Path("/var/lib/kubelet"), Path("/var/lib/cni")]
# The components start in this order and end in reverse.
COMPONENTS = "containerd etcd apiserver controller-manager scheduler kubelet proxy coredns".split()


class Node:
    """A node whose directory has all that another process needs to end it."""

    def __init__(self, programs: Programs, directory: Path | None = None):
        self.programs = programs
        self.directory = directory or Path(tempfile.gettempdir()) / "idjag-node"
        self.settings = Settings(programs, self.directory)
        self.kubeconfig = self.settings.kubeconfig("admin")
        self.pki = self.settings.pki
        # This is set in the process that started the node.
        self.run: Run | None = None

    def up(self):
        """Starts the node and returns once it is Ready.

        After a failure what has started keeps running, for its logs; `run` is set if anything has.
        """
        if alive := self._alive():
            raise Failed(f"a node is already up in {self.directory} ({', '.join(alive)}): tests/cluster/node down")
        self.down()
        if routes := _output("ip", "-4", "route", "show", PODS):
            raise Failed(f"{PODS} is in use on this machine: {routes.splitlines()[0]}")
        if "KUBE-SERVICES" in _output("iptables-save"):
            raise Failed("another Kubernetes has its rules on this machine: iptables-save | grep KUBE-SERVICES")
        self.run = Run(self.directory)
        self._prepare()
        for name in COMPONENTS:
            self.start(name)
        self.wait_ready()

    def _prepare(self):
        for name in ("pids", "cni"):
            (self.directory / name).mkdir()
        absent = [str(place) for place in ELSEWHERE if not place.exists()]
        (self.directory / "absent").write_text("\n".join(absent))
        self.settings.make_certificates()
        self.settings.write_configurations()
        self._make_bridge()

    def wait_ready(self):
        def ready():
            return " Ready " in self._try_kubectl("get", "node", NAME, "--no-headers")

        wait_until("the node to be Ready", ready, 120)
        wait_until("the default service account", lambda: self._try_kubectl("get", "serviceaccount", "default"), 60)
        ended = [name for name in COMPONENTS if not self._alive_one(name)]
        expect(not ended, f"ended: {ended}; see {self.directory}/logs")

    def start(self, name: str):
        """Starts a component and waits until it works."""
        environment = {"PATH": self.programs.path}
        self.run = self.run or Run(self.directory)
        part = self.run.start(name, self.settings.command(name), environment)
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
        """Ends and removes whatever exists of the node."""
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
        if (self.directory / "absent").exists():
            for place in (self.directory / "absent").read_text().split():
                shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def kubectl(self, *words: str, manifest: str | None = None, timeout: float = 60) -> str:
        """Returns the output of kubectl, whose standard input is `manifest`; raises `Failed`."""
        done = self.ask_kubectl(*words, manifest=manifest, timeout=timeout)
        if done.returncode != 0:
            raise Failed(f"kubectl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def ask_kubectl(self, *words: str, manifest: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess:
        argv = [self.programs.kubernetes / "kubectl", "--kubeconfig", self.kubeconfig, *words]
        try:
            return subprocess.run(
                argv, input=manifest, capture_output=True, text=True, timeout=timeout, env=self.environment()
            )
        except subprocess.TimeoutExpired as late:
            raise Failed(f"kubectl {' '.join(words)}: timed out after {timeout:.0f} s") from late

    def load(self, *archives: Path):
        """Imports images, each a docker-archive."""
        for archive in archives:
            done = self._ctr("-n", "k8s.io", "images", "import", str(archive))
            if done.returncode != 0:
                raise Failed(f"{archive} cannot be imported: {done.stderr.strip()}")

    def tag(self, image: str, name: str):
        """Adds another name to an imported image."""
        done = self._ctr("-n", "k8s.io", "images", "tag", f"docker.io/library/{image}", f"docker.io/library/{name}")
        if done.returncode != 0:
            raise Failed(f"{image} cannot be tagged as {name}: {done.stderr.strip()}")

    def process_of(self, container_id: str) -> int:
        """Returns the pid on this machine of a container, given by the id in its pod's status."""
        wanted = container_id.removeprefix("containerd://")
        for line in self._ctr("-n", "k8s.io", "task", "ls").stdout.splitlines()[1:]:
            task, pid, _ = line.split()
            if task == wanted:
                return int(pid)
        raise Failed(f"container {wanted} is not running")

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
        write_image(archive, pause, self.programs.kubernetes / "pause", "/pause")
        self.load(archive)
        archive.unlink()

    # --- Network

    def _make_bridge(self):
        """Creates the bridge before there is a pod, because components listen on its address."""
        for words in [["add", BRIDGE, "type", "bridge"], ["set", BRIDGE, "up"]]:
            command(["ip", "link", *words])
        command(["ip", "address", "add", f"{HOST}/24", "dev", BRIDGE])
        forward = Path("/proc/sys/net/ipv4/ip_forward")
        (self.directory / "ip_forward").write_text(forward.read_text())
        forward.write_text("1")

    def _remove_rules(self):
        cleanup = [self.programs.kubernetes / "kube-proxy", "--cleanup"]
        subprocess.run(cleanup, capture_output=True, env=self.environment(), timeout=60)
        # kube-proxy leaves this chain.
        for tables in ("iptables", "ip6tables"):
            for words in ("-D INPUT -j", "-D OUTPUT -j", "-F", "-X"):
                subprocess.run([tables, *words.split(), "KUBE-FIREWALL"], capture_output=True)

    def _remove_network(self):
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv4/ip_forward").write_text((self.directory / "ip_forward").read_text())


def _started(pid: int) -> int | None:
    """Returns the start time of a process in ticks, or None once it has ended.

    Together with the pid it identifies a process even if pids are reused.
    """
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
    # This reaps the process if it is a child of ours.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True).stdout


def main():
    options = argparse.ArgumentParser(prog="tests/cluster/node", description="a real Kubernetes node on this machine")
    commands = options.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="fill the cache with what it needs")
    commands.add_parser("up", help="start it and print the path of its kubeconfig")
    commands.add_parser("down", help="end it and remove everything it created")
    kubectl = commands.add_parser("kubectl", help="run kubectl against it")
    kubectl.add_argument("words", nargs=argparse.REMAINDER)
    load = commands.add_parser("load", help="import images")
    load.add_argument("archives", nargs="+", type=Path)
    chosen = options.parse_args()

    try:
        if chosen.command in ("build", "up"):
            # Standard output is for the kubeconfig's path alone.
            install(partial(print, file=sys.stderr, flush=True))
        node = Node(Programs(cache_directory()))
        match chosen.command:
            case "up":
                try:
                    node.up()
                except BaseException:
                    if node.run:
                        node.down()
                    raise
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
