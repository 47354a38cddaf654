"""What the cases share: the node, SPIRE, Keycloak and the upstream pod, and queries to the cluster.

All parts are started before the first case.
"""

import collections
import json
import re
import shutil
import string
import subprocess
import textwrap
import threading
import time
from pathlib import Path

from cluster import agents_image
from cluster.node import HOST, Node, Programs
from harness import REPOSITORY, images, tools
from harness.cases import Failed, expect, say
from harness.envoy import Bootstrap
from harness.install import Cache
from harness.keycloak import Https, Keycloak
from harness.parts import Run, fetch, free_ports, wait_until
from harness.proxy import series
from harness.servers import Upstream
from harness.spire import TRUST_DOMAIN, Spire

RELEASE = OWN_NAMESPACE = "idjag-proxy"
WEBHOOKS = INJECTOR = "idjag-proxy-injector"
SIDECAR = "idjag-proxy"
# The agents that are clients of Keycloak, by namespace and service account.
CALENDAR, LATE, BY_HAND, PIPED, REGISTERED = AGENTS = (
    "spiffe://example.org/ns/agents/sa/calendar",
    "spiffe://example.org/ns/agents/sa/late",
    "spiffe://example.org/ns/by-hand/sa/calendar",
    "spiffe://example.org/ns/piped/sa/calendar",
    "spiffe://example.org/ns/registered/sa/calendar",
)
UPSTREAM = "spiffe://example.org/ns/upstream/sa/reports"
# The URL that the agents call; a route leads to the upstream pod.
REPORTS = "http://reports.example.com"

K8S_ATTESTOR = """
  WorkloadAttestor "k8s" {{ plugin_data {{
    node_name = "{host}"
    kubelet_secure_port = 10250
    skip_kubelet_verification = true
    certificate_path = "{pki}/admin.pem"
    private_key_path = "{pki}/admin.key"
  }} }}
"""


class Arrivals(Upstream):
    """The server behind the upstream pod, on this machine.

    It verifies each token and records calls by caller and path: their number, the first time, and
    the last request.
    """

    def __init__(self, run: Run, issuer: str, jwks_url: str):
        self.calls: collections.Counter = collections.Counter()
        self.first: dict[tuple[str, str], float] = {}
        self.last: dict[tuple[str, str], dict] = {}
        super().__init__(run, issuer, jwks_url, HOST)

    def admitted(self, seen: dict):
        key = seen["claims"].get("azp", ""), seen["path"].strip("/").partition("?")[0]
        with self.lock:
            self.calls[key] += 1
            self.first.setdefault(key, time.monotonic())
            self.last[key] = seen


class Cluster:
    def __init__(self, run: Run, cache: Cache, plan: dict):
        self.run, self.cache, self.plan = run, cache, plan
        self.node = Node(Programs(cache.root))
        self.helm_program = tools.Tools(cache.root).helm3
        self.version = images.version()
        self.spire: Spire
        self.keycloak: Keycloak
        self.arrivals: Arrivals

    # --- Starting

    def start(self):
        """Starts everything, after the images are compiled, which needs the whole machine."""
        self.images = self._images()
        self._timed("the node", self.node.up)
        attestor = K8S_ATTESTOR.format(host=HOST, pki=self.node.pki)
        self.spire = Spire(self.run, self.cache.spire, attestor)
        self._timed("SPIRE", self.spire.start)
        keycloak = threading.Thread(target=self._start_keycloak, daemon=True)
        keycloak.start()
        archives = [self.images.archive(target) for target in images.IMAGES] + [agents_image.archive(self.cache)]
        self._timed("images into the node", lambda: self.node.load(*archives))
        keycloak.join()
        expect(hasattr(self, "keycloak"), f"Keycloak did not start: {self.keycloak_failure}")
        self.arrivals = Arrivals(self.run, self.keycloak.issuer(), self.keycloak.endpoint("certs"))
        self._timed("the upstream", self._start_upstream)

    def _images(self) -> images.Images:
        if given := self.plan["images"]:
            return images.Images(Path(given), self.version)
        made = images.Images(self.run.directory / "images", self.version)
        made.directory.mkdir()
        environment = images.install(say)
        images.compile(say, environment, self.plan["profile"], made)
        images.pack(made)
        return made

    def _start_keycloak(self):
        started = time.monotonic()
        self.keycloak_failure = ""
        try:
            self.node.settings.certificate("keycloak", "/CN=keycloak", f"subjectAltName=IP:{HOST}")
            pki, (port, unused) = self.node.pki, free_ports(2)
            https = Https(HOST, port, pki / "keycloak.pem", pki / "keycloak.key")
            # No ID-JAGs are issued here; the real-parts suite covers them.
            no_jwks = f"http://127.0.0.1:{unused}"
            home, java = self.cache.keycloak, self.cache.java
            keycloak = Keycloak(self.run, home, java, self.spire.jwks_url, no_jwks, AGENTS, https)
            keycloak.start()
        except Exception as error:
            self.keycloak_failure = str(error)
        else:
            self.keycloak = keycloak
            say(f"start: Keycloak: {time.monotonic() - started:.0f} s")

    def _start_upstream(self):
        self.register("upstream", "reports", "envoy")
        bootstrap = Bootstrap(
            identity=UPSTREAM,
            admits={"safe_regex": {"regex": regex(AGENTS)}},
            listen=("0.0.0.0", 8443),
            admin=("0.0.0.0", 9901),
            agent_socket="/spiffe/api.sock",
            upstream=(HOST, self.arrivals.port),
        )
        self.apply(UPSTREAM_POD, bootstrap=json.dumps(bootstrap.json()), sockets=self.spire.agent_socket.parent)
        self.node.kubectl("rollout", "status", "deployment/reports", "-n", "upstream", "--timeout=90s", timeout=100)

    def _timed(self, what: str, action):
        started = time.monotonic()
        action()
        say(f"start: {what}: {time.monotonic() - started:.0f} s")

    def register(self, namespace: str, account: str, container: str = SIDECAR):
        """Registers the container of this name in pods of the service account, and no other
        container.
        """
        selectors = [f"k8s:ns:{namespace}", f"k8s:sa:{account}", f"k8s:container-name:{container}"]
        self.spire.register_by(f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}", selectors)

    @property
    def workload_api(self) -> str:
        """The agent's socket on the node, as the value of the socket annotation."""
        return f"hostPath:{self.spire.agent_socket}"

    # --- The chart

    def package(self, version: str, app_version: str | None = None) -> Path:
        """Packages the chart under this version and returns the archive."""
        versions = ["--version", version, "--app-version", app_version or self.version]
        self.helm("package", REPOSITORY / "charts" / "idjag-proxy", "-d", self.run.directory, *versions)
        return self.run.directory / f"idjag-proxy-{version}.tgz"

    @property
    def chart(self) -> Path:
        """The chart that the first case installs."""
        return self.run.directory / f"idjag-proxy-{self.version}.tgz"

    def tag_images(self, version: str):
        """Tags the images with another version."""
        for name in images.IMAGES.values():
            self.node.tag(f"{name}:{self.version}", f"{name}:{version}")

    def helm(self, *words, timeout: float = 180) -> str:
        home = self.run.directory / "helm"
        places = {f"HELM_{name}_HOME": str(home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        environment = self.node.environment() | places | {"KUBECONFIG": str(self.node.kubeconfig)}
        argv = [str(word) for word in (self.helm_program, *words)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=timeout)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"helm {' '.join(argv[1:])}: timed out after {timeout:.0f} s") from late
        expect(done.returncode == 0, f"helm {' '.join(argv[1:])}: {done.stderr.strip()}")
        return done.stdout

    # --- Queries to the cluster

    def kubectl(self, *words: str, **options) -> str:
        return self.node.kubectl(*words, **options)

    def apply(self, manifest: str, **values) -> str:
        """Applies YAML with `$name` for each value."""
        return self.kubectl("apply", "-f", "-", manifest=text_of(manifest, values))

    def ask(self, manifest: str, *words: str, **values) -> subprocess.CompletedProcess:
        """Runs kubectl with such a manifest and returns the result, even if it failed."""
        return self.node.ask_kubectl(*words, "-f", "-", manifest=text_of(manifest, values))

    def get(self, *words: str) -> dict:
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def pods(self, namespace: str, selector: str) -> list[dict]:
        """Returns the pods that are not being deleted."""
        found = self.get("pods", "-n", namespace, "-l", selector)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod(self, namespace: str, selector: str) -> dict:
        """Returns the first ready pod, and waits until there is one."""

        def ready():
            return [pod for pod in self.pods(namespace, selector) if is_ready(pod)]

        return wait_until(f"a ready pod {selector} in {namespace}", ready, 120)[0]

    def wait_ready(self, namespace: str, deployment: str, seconds: int = 120):
        words = ["rollout", "status", f"deployment/{deployment}", "-n", namespace, f"--timeout={seconds}s"]
        self.kubectl(*words, timeout=seconds + 10)

    def status_of_sidecar(self, pod: dict) -> dict:
        """Returns what `idjag-proxy status` prints in the pod."""
        metadata = pod["metadata"]
        container = ["-n", metadata["namespace"], metadata["name"], "-c", SIDECAR]
        return json.loads(self.kubectl("exec", *container, "--", "idjag-proxy", "status", "--json"))

    def log(self, namespace: str, pod: str, container: str) -> str:
        return self.node.ask_kubectl("logs", "-n", namespace, pod, "-c", container).stdout

    def container(self, pod: dict, name: str) -> int:
        """Returns the pid on this machine of a running container of the pod."""
        status = pod["status"]
        containers = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
        (wanted,) = (one["containerID"] for one in containers if one["name"] == name)
        return self.node.process_of(wanted)

    # --- Ending

    def end_of_case(self):
        """Does nothing: what a case changes, it restores itself."""

    def save_logs(self):
        """Copies the node's and the pods' logs to the run's, before the node is removed."""
        target = self.run.logs / "node"
        shutil.copytree(self.node.directory / "logs", target, dirs_exist_ok=True)
        try:
            (target / "pods.json").write_text(self.kubectl("get", "pods,events,deployments", "-A", "-o", "json"))
            (target / "pods.txt").write_text(self.kubectl("describe", "pods", "-A"))
        except Failed as error:
            (target / "pods.txt").write_text(str(error))
        if (self.node.directory / "pod-logs").exists():
            shutil.copytree(self.node.directory / "pod-logs", target / "pods", dirs_exist_ok=True)


class Agent:
    """The Python agent of a pod, as it reports its calls."""

    def __init__(self, world: Cluster, pod: dict):
        self.world, self.pod, self.seen = world, pod, 0

    def report(self) -> dict:
        status, text = fetch(f"http://{self.pod['status']['podIP']}:8000/")
        expect(status == 200, f"the agent {self.pod['metadata']['name']} does not report: {status} {text}")
        return json.loads(text)

    def more(self, count: int, seconds: float = 60):
        """Waits until `count` more calls have been answered."""
        goal = self.report()["sent"] + count
        wait_until(f"{count} more calls of the agent", lambda: self.report()["sent"] >= goal, seconds)

    def expect_no_failure(self, during: str) -> int:
        """Expects that no call has failed since the last look; returns the number of all calls."""
        report = self.report()
        failed, self.seen = report["failed"] - self.seen, report["failed"]
        expect(failed == 0, f"{failed} calls failed while {during}: {report['failures'][-3:]}")
        return report["sent"]


def metric(pod: dict, name: str, **labels: str) -> float:
    """Sums a pod's series of `idjag_proxy_<name>` that have these labels."""
    return series(fetch(f"http://{pod['status']['podIP']}:17090/metrics")[1], name, **labels)


def regex(agents: tuple[str, ...]) -> str:
    """Returns a pattern of exactly these SPIFFE IDs.

    Envoy refuses patterns of more than 100 steps, so common parts appear only once.
    """
    head, namespaces = f"spiffe://{TRUST_DOMAIN}/ns/", collections.defaultdict(list)
    for agent in agents:
        namespace, _, account = agent.removeprefix(head).partition("/sa/")
        namespaces[account].append(re.escape(namespace))
    rest = [f"(?:{'|'.join(those)})/sa/{re.escape(account)}" for account, those in namespaces.items()]
    return f"{re.escape(head)}(?:{'|'.join(rest)})"


def is_ready(pod: dict) -> bool:
    return condition(pod, "Ready") == "True"


def condition(pod: dict, name: str) -> str:
    return next((one["status"] for one in pod["status"].get("conditions", []) if one["type"] == name), "")


def text_of(manifest: str, values: dict) -> str:
    return string.Template(textwrap.dedent(manifest)).substitute(values)


# Envoy as in the real-parts suite. It shuts down gracefully: it first leaves the Service, then
# refuses new requests, then ends.
UPSTREAM_POD = """
    apiVersion: v1
    kind: Namespace
    metadata: { name: upstream }
    ---
    apiVersion: v1
    kind: ServiceAccount
    metadata: { name: reports, namespace: upstream }
    ---
    apiVersion: v1
    kind: ConfigMap
    metadata: { name: envoy, namespace: upstream }
    data: { envoy.json: $bootstrap }
    ---
    apiVersion: v1
    kind: Service
    metadata: { name: reports, namespace: upstream }
    spec: { selector: { app: reports }, ports: [{ port: 8443 }] }
    ---
    apiVersion: apps/v1
    kind: Deployment
    metadata: { name: reports, namespace: upstream }
    spec:
      selector: { matchLabels: { app: reports } }
      strategy: { rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } }
      template:
        metadata: { labels: { app: reports } }
        spec:
          serviceAccountName: reports
          automountServiceAccountToken: false
          containers:
            - name: envoy
              image: idjag-agents:1
              imagePullPolicy: Never
              command: [envoy, -c, /etc/envoy/envoy.json, --concurrency, "1", --disable-hot-restart]
              readinessProbe: { httpGet: { path: /ready, port: 9901 }, periodSeconds: 1 }
              lifecycle:
                preStop:
                  exec:
                    command:
                      - sh
                      - -c
                      - "curl -sS -X POST 'http://127.0.0.1:9901/drain_listeners?graceful&skip_exit'; sleep 5"
              volumeMounts:
                - { name: config, mountPath: /etc/envoy }
                - { name: spiffe, mountPath: /spiffe, readOnly: true }
          volumes:
            - { name: config, configMap: { name: envoy } }
            - { name: spiffe, hostPath: { path: $sockets, type: Directory } }
    """
