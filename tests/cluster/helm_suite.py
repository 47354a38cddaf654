"""The chart at a real API server, without a node.

It is installed, upgraded and rolled back with Helm 3, with Helm 4 and with one after the other, and
what the injector has written must survive. The injector runs as a process next to the API server,
with the token of its own service account. There is no kubelet, so no pod runs.
"""

import argparse
import base64
import json
import os
import signal
import socket
import ssl
import sys
import tempfile
from pathlib import Path

from cluster.node import Node
from cluster.node import install as install_node
from cluster.node_settings import API, API_PORT, ETCD_PORT
from harness import REPOSITORY
from harness.cases import Runner, expect, say
from harness.parts import Part, Run, exit_on_signals, fetch, free_ports, wait_until
from harness.tools import InstallError, Tools, install, run_captured
from harness.web import Handler, Server

CHART = REPOSITORY / "charts/idjag-proxy"
NAME, NAMESPACE = "idjag-proxy-injector", "idjag-proxy"
# The major versions of Helm that install, upgrade and roll back.
SEQUENCES = ["333", "444", "344", "433"]


def main():
    options = argparse.ArgumentParser(prog="tests/cluster/helm", description=__doc__)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    options.add_argument("--proxy", type=Path, default=target / "release/idjag-proxy")
    chosen = options.parse_args()
    for port in (API_PORT, ETCD_PORT):
        if socket.socket().connect_ex(("127.0.0.1", port)) == 0:
            leave(f"port {port} is in use; is a node of tests/cluster up?")
    if not chosen.proxy.exists() or run_captured([chosen.proxy, "injector", "--help"])[0] != 0:
        leave(f"{chosen.proxy} is not a binary with `injector`; use cargo build --release, or --proxy")
    try:
        tools, programs = install(say, ["helm3", "helm4"]), install_node(say)
    except InstallError as error:
        leave(str(error))
    exit_on_signals()
    run, runner = Run(Path(tempfile.mkdtemp(prefix="idjag-helm-"))), Runner()
    finished = False
    try:
        server = ApiServer(run, programs, tools, chosen.proxy.resolve())
        for sequence in SEQUENCES:
            words = "install with Helm {}, upgrade with {}, rollback with {}".format(*sequence)
            runner.run(f"what the injector wrote survives: {words}", survives, server, sequence)
        for which in "34":
            runner.run(
                f"the agents' ConfigMaps come and go with the release, by Helm {which}",
                agents_configuration,
                server,
                which,
            )
        runner.run(
            "the API server calls the webhooks for pods and workloads according to their labels, and for nothing else",
            asks,
            server,
        )
        finished = True
    finally:
        keep = not finished or runner.any_failed
        run.close(keep)
        if keep:
            say(f"logs: {run.logs}")
    sys.exit(runner.finish())


def leave(why: str):
    runner = Runner()
    runner.not_run("every case", why, count=len(SEQUENCES) + 3)
    runner.finish()
    sys.exit(3)


class ApiServer:
    """etcd and an API server, both Helms, and the injector."""

    def __init__(self, run: Run, programs, tools: Tools, proxy: Path):
        self.run, self.proxy = run, proxy
        self.helms = {"3": tools.helm3, "4": tools.helm4}
        self.node = Node(programs, run.directory)
        self.node.run = run
        (run.directory / "pids").mkdir()
        self.node.settings.make_certificates()
        for name in ("etcd", "apiserver"):
            self.node.start(name)

    def helm(self, which: str, *words) -> str:
        home = self.run.directory / f"helm{which}"
        homes = {f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}
        environment = self.node.environment() | homes | {"KUBECONFIG": str(self.node.kubeconfig)}
        argv = [self.helms[which], *words, "--namespace", NAMESPACE]
        code, output, errors = run_captured(argv, env=environment, timeout=120)
        expect(code == 0, f"helm {which} {' '.join(map(str, words))}: {errors.strip()}")
        return output

    def package(self, version: str) -> Path:
        self.helm("3", "package", CHART, "--version", version, "--app-version", version, "-d", self.run.directory)
        return self.run.directory / f"idjag-proxy-{version}.tgz"

    def object(self, kind: str, namespace: str | None = NAMESPACE) -> dict:
        words = ["-n", namespace] if namespace else []
        return json.loads(self.node.kubectl("get", kind, NAME, *words, "-o", "json"))

    def start_injector(self, name: str) -> Part:
        """Starts the injector with the token and the rights of the chart's service account."""
        authority = base64.b64encode((self.node.pki / "ca.pem").read_bytes()).decode()
        token = self.node.kubectl("create", "token", NAME, "-n", NAMESPACE)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": API, "certificate-authority-data": authority}}],
            "users": [{"name": "here", "user": {"token": token.strip()}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here", "namespace": NAMESPACE}}],
            "current-context": "here",
        }
        kubeconfig = self.run.directory / f"{name}.kubeconfig"
        kubeconfig.write_text(json.dumps(document))
        webhook, metrics = free_ports(2)
        argv = [self.proxy, "injector", "--listen", f"127.0.0.1:{webhook}", "--metrics", f"127.0.0.1:{metrics}"]
        part = self.run.start(name, argv, env={"KUBECONFIG": str(kubeconfig)})

        def ready():
            return fetch(f"http://127.0.0.1:{metrics}/readyz")[0] == 200

        wait_until("the injector to be ready", ready, 60, part)
        return part


def survives(server: ApiServer, sequence: str):
    first, second, third = sequence
    old, new = server.package("0.0.1"), server.package("0.0.2")
    try:
        server.helm(first, "install", "idjag-proxy", old, "--create-namespace")
        # It is killed before anything changes, because it would restore what is missing.
        server.start_injector(f"injector-{sequence}").stop(signal.SIGKILL)
        written = state(server)
        expect(all(written["bundles"]) and written["secret"] and written["holder"], f"it wrote {written}")
        expect_rendering(server, "0.0.1", "Fail", 5)
        # These values are next to what the injector wrote, in the same lists.
        changes = ["--set", "injector.failurePolicy=Ignore", "--set", "injector.timeoutSeconds=7"]
        server.helm(second, "upgrade", "idjag-proxy", new, *changes)
        expect_rendering(server, "0.0.2", "Ignore", 7)
        expect(state(server) == written, "the upgrade changed what the injector wrote")
        server.helm(third, "rollback", "idjag-proxy", "1")
        expect_rendering(server, "0.0.1", "Fail", 5)
        expect(state(server) == written, "the rollback changed what the injector wrote")
    finally:
        server.helm(third, "uninstall", "idjag-proxy")


def agents_configuration(server: ApiServer, which: str):
    """The ConfigMap comes and goes as the README describes."""
    values, chart = server.run.directory / "agents.yaml", server.package("0.0.1")
    config = {"routes": [{"match": {"host": "api.example.com"}, "token": "none"}]}
    values.write_text(json.dumps({"agents": {"namespaces": ["default"], "config": config}}))

    def exists():
        return server.node.ask_kubectl("get", "configmap", "idjag-proxy", "-n", "default").returncode == 0

    server.helm(which, "install", "idjag-proxy", chart, "--create-namespace", "--values", values)
    try:
        expect(exists(), "the chart did not create the ConfigMap")
        server.helm(which, "upgrade", "idjag-proxy", chart, "--reset-values")
        expect(not exists(), "it still exists, although its namespace is not in the list")
        server.helm(which, "upgrade", "idjag-proxy", chart, "--values", values)
    finally:
        server.helm(which, "uninstall", "idjag-proxy")
    expect(not exists(), "it is left behind")


def state(server: ApiServer) -> dict:
    """Returns what only the injector writes."""
    webhooks = server.object("mutatingwebhookconfiguration", None)["webhooks"]
    return {
        "bundles": [one["clientConfig"].get("caBundle") for one in webhooks],
        "secret": server.object("secret").get("data"),
        "holder": server.object("lease").get("spec", {}).get("holderIdentity"),
    }


def expect_rendering(server: ApiServer, version: str, policy: str, timeout: int):
    """Expects the values of the webhook configuration that is in force."""
    configuration = server.object("mutatingwebhookconfiguration", None)
    entries = configuration["webhooks"]
    chart = configuration["metadata"]["labels"]["helm.sh/chart"]
    expect(chart == f"idjag-proxy-{version}", f"the chart is {chart}, not {version}")
    expect(len(entries) == 4, f"the entries are {[one['name'] for one in entries]}")
    for entry in entries:
        expected = policy if entry["name"] in ("namespace.idjag-proxy.io", "pod.idjag-proxy.io") else "Ignore"
        found = entry["failurePolicy"], entry["timeoutSeconds"]
        expect(found == (expected, timeout), f"{entry['name']} has {found}")


class Listener(Server):
    """A webhook that allows everything and records the entry by which it was called."""

    def __init__(self, run: Run, node: Node):
        self.asked: list[str] = []
        super().__init__(run, _Answer)
        node.settings.certificate("listener", "/CN=listener", "subjectAltName=IP:127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(node.pki / "listener.pem", node.pki / "listener.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)


class _Answer(Handler):
    def do_POST(self):
        review = json.loads(self.body())
        self.server.asked.append(self.path.partition("?")[0].removeprefix("/"))
        self.reply(200, review | {"response": {"uid": review["request"]["uid"], "allowed": True}})


def asks(server: ApiServer):
    """Uses the chart's selectors and rules with a listener of ours instead of the injector."""
    kubectl, listener = server.node.kubectl, Listener(server.run, server.node)
    for namespace, label in {
        "labelled": "enabled",
        "plain": "",
        NAMESPACE: "enabled",
        "kube-system": "enabled",
    }.items():
        server.node.ask_kubectl("create", "namespace", namespace)
        kubectl("label", "--overwrite", "namespace", namespace, f"idjag-proxy.io/inject={label}")
        # Usually a controller creates it, which does not run here.
        server.node.ask_kubectl("create", "serviceaccount", "default", "-n", namespace)
    server.helm("4", "install", "idjag-proxy", server.package("0.0.1"))
    try:
        configuration = server.object("mutatingwebhookconfiguration", None)
        bundle = base64.b64encode((server.node.pki / "ca.pem").read_bytes()).decode()
        for entry in configuration["webhooks"]:
            name = entry["name"].removesuffix(".idjag-proxy.io")
            url = f"https://127.0.0.1:{listener.port}/{name}"
            # With `Fail` a call that does not arrive is an error.
            entry |= {"clientConfig": {"url": url, "caBundle": bundle}, "failurePolicy": "Fail"}
        kubectl("replace", "-f", "-", manifest=json.dumps(configuration))
        wait_until("the entries to be in force", lambda: asked(server, listener, "labelled", pod("")), 30)
        wrong = []
        for namespace, what, manifest, expected in EXPECTED:
            found = asked(server, listener, namespace, manifest)
            wrong += [f"{what} in {namespace}: {found}, not {expected}"] if found != expected else []
        expect(not wrong, "\n".join(wrong))
    finally:
        server.helm("4", "uninstall", "idjag-proxy")


def asked(server: ApiServer, listener: Listener, namespace: str, manifest: dict) -> list[str]:
    listener.asked.clear()
    server.node.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", manifest=json.dumps(manifest))
    return list(listener.asked)


def labels(value: str) -> dict:
    return {"idjag-proxy.io/inject": value} if value else {}


def pod(label: str) -> dict:
    metadata, spec = {"name": "agent", "labels": labels(label)}, {"containers": [{"name": "a", "image": "a"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def deployment(own: str, template: str) -> dict:
    metadata, app = {"name": "agent", "labels": labels(own)}, {"app": "agent"}
    inner = {"metadata": {"labels": app | labels(template)}, "spec": pod("")["spec"]}
    spec = {"selector": {"matchLabels": app}, "template": inner}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


CONFIGURATION = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "agent", "labels": labels("enabled")}}
# A namespace, what is created in it, and the entries by which the API server calls the webhook.
EXPECTED = [
    ("labelled", "a pod", pod(""), ["namespace"]),
    ("labelled", "a pod labelled enabled", pod("enabled"), ["pod"]),
    ("labelled", "a pod labelled disabled", pod("disabled"), []),
    ("labelled", "a Deployment", deployment("", ""), ["workloads"]),
    ("labelled", "a Deployment labelled enabled", deployment("enabled", "enabled"), ["workloads"]),
    ("labelled", "a Deployment labelled disabled", deployment("disabled", ""), ["workloads"]),
    ("labelled", "a ConfigMap labelled enabled", CONFIGURATION, []),
    ("plain", "a pod", pod(""), []),
    ("plain", "a pod labelled enabled", pod("enabled"), ["pod"]),
    ("plain", "a pod labelled disabled", pod("disabled"), []),
    ("plain", "a Deployment", deployment("", ""), []),
    ("plain", "a Deployment whose pods are labelled enabled", deployment("", "enabled"), []),
    ("plain", "a Deployment labelled enabled", deployment("enabled", "enabled"), ["labelled-workloads"]),
    ("plain", "a Deployment labelled disabled", deployment("disabled", ""), []),
    (NAMESPACE, "a pod labelled enabled", pod("enabled"), []),
    (NAMESPACE, "a Deployment labelled enabled", deployment("enabled", "enabled"), []),
    ("kube-system", "a pod labelled enabled", pod("enabled"), []),
    ("kube-system", "a Deployment labelled enabled", deployment("enabled", "enabled"), []),
]


if __name__ == "__main__":
    main()
