"""d: the injector under failures, and all its refusals and warnings."""

import base64
import json
import os
import signal
import ssl
import threading

from cluster import agents
from cluster.cases.install import make_namespace
from cluster.world import INJECTOR, OWN_NAMESPACE, RELEASE, SIDECAR, Agent, Cluster, is_ready, metric, text_of
from harness.cases import case, expect
from harness.parts import wait_until

SELECTOR = "app.kubernetes.io/component=injector"


def replicas(world: Cluster) -> list[dict]:
    return world.pods(OWN_NAMESPACE, SELECTOR)


def two_ready(world: Cluster) -> list[dict]:
    def both():
        return [pods for pods in [replicas(world)] if len(pods) == 2 and all(map(is_ready, pods))]

    return wait_until("two ready injectors", both, 120)[0]


def reviews(world: Cluster) -> float:
    return sum(metric(pod, "injector_reviews_total") for pod in replicas(world))


class Creation:
    """Creates pods continuously by dry runs, which are reviewed like any creation.

    Failures are recorded.
    """

    def __init__(self, world: Cluster, threads: int = 2):
        self.world, self.ended = world, threading.Event()
        self.made, self.failures = 0, []
        manifest = {"name": "created", "namespace": "agents", "metadata": "", "settings": "", "container": ""}
        self.manifest = text_of(agents.PLAIN, manifest)
        self.threads = [threading.Thread(target=self._create, daemon=True) for _ in range(threads)]

    def __enter__(self) -> "Creation":
        for thread in self.threads:
            thread.start()
        self.more(3)
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def more(self, count: int):
        goal = self.made + count
        wait_until(f"{count} more pods to be created", lambda: self.made >= goal, 60)

    def expect_no_failure(self, during: str):
        failures = f"{len(self.failures)} of {self.made} pods failed while {during}"
        expect(not self.failures, f"{failures}: {self.failures[:2]}")

    def _create(self):
        while not self.ended.is_set():
            words = ["create", "--dry-run=server", "-o", "json", "-f", "-"]
            done = self.world.node.ask_kubectl(*words, manifest=self.manifest)
            if done.returncode != 0:
                self.failures.append(done.stderr.strip())
            elif not has_sidecar(json.loads(done.stdout)):
                self.failures.append("it has no sidecar")
            self.made += 1


def has_sidecar(pod: dict) -> bool:
    return [one["name"] for one in pod["spec"].get("initContainers", [])][:1] == [SIDECAR]


@case("d: one of two replicas is deleted while pods are created: none is refused, each has a sidecar")
def deleted(world: Cluster) -> str:
    first, _ = two_ready(world)
    with Creation(world) as creation:
        world.kubectl("delete", "pod", first["metadata"]["name"], "-n", OWN_NAMESPACE)
        two_ready(world)
        creation.more(20)
    creation.expect_no_failure("a replica was deleted")
    return f"{creation.made} pods"


@case("d: one of two replicas is killed while pods are created: all pods of a workload appear, with a sidecar")
def killed(world: Cluster) -> str:
    """A review that is sent to the killed process fails, and the pod's controller retries."""
    first, _ = two_ready(world)
    world.apply(SCALED)
    victim = world.container(first, "injector")

    def made():
        return world.pods("agents", "app=scaled")

    try:
        with Creation(world) as creation:
            os.kill(victim, signal.SIGKILL)
            world.kubectl("scale", "deployment/scaled", "-n", "agents", "--replicas=12")
            wait_until("twelve pods", lambda: len(made()) == 12, 90)
            two_ready(world)
            failed = len(creation.failures)
            creation.more(10)
        last = creation.failures[-1:]
        expect(len(creation.failures) == failed, f"pods failed after two replicas were ready again: {last}")
        without = [pod["metadata"]["name"] for pod in made() if not has_sidecar(pod)]
        expect(not without, f"pods without a sidecar: {without}")
        expect("it has no sidecar" not in creation.failures, "a pod was created without a sidecar")
    finally:
        world.kubectl("delete", "deployment/scaled", "-n", "agents", "--wait=false")
    return f"{failed} of {creation.made} single pods were refused at that moment"


# No node matches the selector, so these pods stay pending: the node is too small to run them.
SCALED = """
    apiVersion: apps/v1
    kind: Deployment
    metadata: { name: scaled, namespace: agents }
    spec:
      replicas: 0
      selector: { matchLabels: { app: scaled } }
      template:
        metadata: { labels: { app: scaled } }
        spec:
          nodeSelector: { no-such: node }
          containers: [{ name: agent, image: "idjag-agents:1", command: [sleep, infinity] }]
    """


@case("d: the certificate is rotated while pods are created: none is refused, both replicas serve the new one")
def rotated(world: Cluster) -> str:
    """Removes the old certificate, as an operator would if it is no longer trusted."""
    pods = two_ready(world)
    before, [old] = served(pods), bundles(world)
    rotations = sum(metric(pod, "injector_certificate_rotations_total", outcome="rotated") for pod in pods)
    with Creation(world) as creation:
        patch = '[{"op": "remove", "path": "/data"}]'
        world.kubectl("patch", "secret", INJECTOR, "-n", OWN_NAMESPACE, "--type=json", "-p", patch)
        wait_until(
            "both replicas to have the new certificate",
            lambda: not served(pods) & before and len(served(pods)) == 1,
            90,
        )
        creation.more(10)
        [new] = bundles(world)
        expect(new != old and old.strip() in new, "the old authority was removed from the bundle at once")
    creation.expect_no_failure("the certificate was rotated")
    now = sum(metric(pod, "injector_certificate_rotations_total", outcome="rotated") for pod in pods)
    expect(now == rotations + 1, f"{now - rotations:.0f} rotations are counted")
    expect(
        {pod["metadata"]["uid"] for pod in two_ready(world)} == {pod["metadata"]["uid"] for pod in pods}, "restarted"
    )
    return f"{creation.made} pods"


def served(pods: list[dict]) -> set[bytes]:
    """Returns the certificates that the injectors present now."""
    return {ssl.get_server_certificate((pod["status"]["podIP"], 8443), timeout=5) for pod in pods}


def bundles(world: Cluster) -> list[str]:
    """Returns the distinct bundles that the entries of the webhook configuration trust."""
    hooks = world.get("mutatingwebhookconfiguration", INJECTOR)["webhooks"]
    return list({base64.b64decode(hook["clientConfig"].get("caBundle", "")).decode() for hook in hooks})


@case("d: the API server restarts: agents and injectors go on, and pods are injected at once")
def api_server(world: Cluster) -> str:
    agent = Agent(world, world.pod("agents", "app=python"))
    agent.expect_no_failure("nothing had happened yet")
    before = {pod["metadata"]["uid"] for pod in two_ready(world)}
    world.node.restart("apiserver")
    world.node.wait_ready()
    with Creation(world) as creation:
        creation.more(10)
    creation.expect_no_failure("the API server was back")
    after = two_ready(world)
    expect({pod["metadata"]["uid"] for pod in after} == before, "an injector was replaced")
    restarts = sum(one["restartCount"] for pod in after for one in pod["status"]["containerStatuses"])
    agent.more(50)
    agent.expect_no_failure("the API server restarted")
    return f"the injectors' containers have restarted {restarts} times in all"


@case("d: pods that cannot be injected are refused, each with the reason and what to do")
def refused(world: Cluster):
    for name in ("empty", "no-file"):
        world.apply(agents.NAMESPACE, name=name, labels="idjag-proxy.io/inject: enabled")
    world.kubectl("create", "configmap", "idjag-proxy", "-n", "no-file", "--from-literal=other.yaml=")
    for namespace, fields, words in refusals(world):
        done = world.ask(agents.PLAIN, "create", "--dry-run=server", **plain(namespace, fields))
        expect(done.returncode != 0, f"{fields} was accepted: {done.stdout}")
        expect_words(fields, done.stderr, words)
        expect("admission webhook" in done.stderr, f"{fields}: the refusal is not the webhook's: {done.stderr}")
        if not words[0].startswith("ConfigMap "):
            expect_words(
                fields, done.stderr, ["To run the pod without the sidecar, label it idjag-proxy.io/inject: disabled"]
            )
    # The API server would refuse this as well, but only after the webhooks.
    bare = "{ apiVersion: v1, kind: Pod, metadata: { name: bare, namespace: agents }, spec: { containers: [] } }"
    done = world.ask(bare, "create", "--dry-run=server")
    expect_words({}, done.stderr, ["pod bare cannot have", "its spec has no containers"])


@case("d: workloads whose pods would be refused are accepted with a warning by kubectl: each kind, each reason")
def warned(world: Cluster):
    for namespace, fields, words in refusals(world):
        done = world.ask(workload("Deployment", plain(namespace, fields)), "apply", "--dry-run=server")
        expect(done.returncode == 0, f"Deployment with {fields}: {done.stderr}")
        expect("Warning:" in done.stderr, f"Deployment with {fields}: no warning")
        expect_words(fields, done.stderr, ["idjag-proxy: its pods will be refused: ", *words[:1]])
    for kind in KINDS:
        good = world.ask(workload(kind, plain("agents", {})), "apply", "--dry-run=server")
        expect(good.returncode == 0 and "Warning" not in good.stderr, f"a good {kind}: {good.stderr}")
        done = world.ask(
            workload(kind, plain("agents", {"settings": "hostNetwork: true"})), "apply", "--dry-run=server"
        )
        expect(done.returncode == 0 and "hostNetwork is true" in done.stderr, f"{kind}: {done.stderr}")
    # The workload's own label does not matter in a labelled namespace. In another namespace it
    # makes the injector review the workload.
    for namespace, label in [("agents", "enabled"), ("agents", "disabled"), ("elsewhere", "enabled")]:
        own = workload("Deployment", plain(namespace, {"settings": "hostNetwork: true"}))
        own = own.replace("name: plain,", f"name: plain, labels: {{ idjag-proxy.io/inject: {label} }},", 1)
        done = world.ask(own, "apply", "--dry-run=server")
        expect("hostNetwork is true" in done.stderr, f"labelled {label} itself, in {namespace}: {done.stderr}")


def refusals(world: Cluster) -> list[tuple[str, dict, list[str]]]:
    """Returns a namespace, fields of a pod, and the words of its refusal."""
    sockets = world.spire.agent_socket.parent
    mount = "volumeMounts: [{ name: spiffe, mountPath: /spiffe }]"

    def annotation(name, value, *words):
        return ("agents", annotated(**{name: value}), list(words))

    return [
        ("agents", {"settings": "hostNetwork: true"}, ["hostNetwork is true"]),
        ("agents", {"settings": "hostPID: true"}, ["hostPID is true"]),
        ("agents", {"settings": "shareProcessNamespace: true"}, ["shareProcessNamespace is true"]),
        (
            "agents",
            {"settings": f"volumes: [{{ name: spiffe, hostPath: {{ path: {sockets} }} }}]", "container": mount},
            ["container agent mounts the Workload API socket"],
        ),
        (
            "agents",
            {
                "settings": "volumes: [{ name: spiffe, csi: { driver: csi.spiffe.io, readOnly: true } }]",
                "container": mount,
            },
            ["container agent mounts the Workload API socket"],
        ),
        ("agents", {"container": "securityContext: { runAsUser: 17080 }"}, ["runs as user 17080", "use another user"]),
        ("agents", {"container": "ports: [{ containerPort: 17080 }]"}, ["container agent has port 17080"]),
        ("agents", {"container": "ports: [{ containerPort: 17090 }]"}, ["container agent has port 17090"]),
        ("agents", {"container": "ports: [{ name: idjag-metrics, containerPort: 80 }]"}, ["idjag-metrics"]),
        (
            "agents",
            {"settings": "initContainers: [{ name: idjag-proxy, image: idjag-agents:1 }]"},
            ["a container is named idjag-proxy"],
        ),
        ("agents", {"settings": "volumes: [{ name: idjag-proxy-admin, emptyDir: {} }]"}, ["idjag-proxy-admin"]),
        (
            "agents",
            {
                "settings": "volumes: [{ name: idjag-proxy-config, emptyDir: {} }]",
                "container": "volumeMounts: [{ name: idjag-proxy-config, mountPath: /x }]",
            },
            ["container agent mounts the volume idjag-proxy-config", "it belongs to the sidecar; mount another one"],
        ),
        ("agents", {"settings": "os: { name: windows }"}, ["it runs on Windows", "the sidecar runs on Linux"]),
        (
            "agents",
            {"metadata": "labels: { idjag-proxy.io/inject: 'yes' }"},
            ["label idjag-proxy.io/inject is `yes`", "write enabled or disabled"],
        ),
        annotation("confg", "x", "idjag-proxy.io/confg", "did you mean `idjag-proxy.io/config`?"),
        annotation("colour", "red", "idjag-proxy.io/colour: unknown annotation; the known ones are config, image"),
        annotation("inject", "enabled", "idjag-proxy.io/inject: it is a label, not an annotation"),
        annotation("config", "My_Agent", "`My_Agent` cannot be the name of a ConfigMap: use a-z, 0-9, `-` and `.`"),
        annotation("image", "a b", "`a b` is not an image: write one such as idjag-proxy:"),
        annotation("log_level", "loud", "log-level: `loud` is not a log level: write error, warn, info"),
        annotation("socket", "/run/api.sock", "`/run/api.sock` is not a socket: write `csi`, `csi:FILE`, or `hostPath"),
        annotation("http_proxy", "on", '`on` is neither "true" nor "false"'),
        annotation("no_proxy", "a.example", 'it has no effect without idjag-proxy.io/http-proxy: "true"'),
        annotation("no_proxy", "a b", "`a b` is not a list of hosts: write one such as a.example,10.0.0.0/8"),
        annotation("resources", "cpu", "`cpu` is not KEY=AMOUNT; the keys are cpu, memory, cpu-limit and memory-limit"),
        annotation("resources", "disk=1Gi", "`disk` is not a known key; the keys are cpu, memory, cpu-limit"),
        annotation("resources", "cpu=fast", "`cpu=fast` is not a quantity; write one such as 10m"),
        annotation("resources", "cpu=1m,cpu=2m", "`cpu` is given twice"),
        annotation("resources", "memory=1Gi", "memory: the request 1Gi exceeds the limit 128Mi; raise `memory-limit`"),
        annotation("config", "nowhere", "ConfigMap agents/nowhere is missing", MAKE.format("agents", "nowhere")),
        ("empty", {}, ["ConfigMap empty/idjag-proxy is missing", MAKE.format("empty", "idjag-proxy")]),
        (
            "no-file",
            {},
            ["ConfigMap no-file/idjag-proxy has no", "key proxy.yaml", MAKE.format("no-file", "idjag-proxy")],
        ),
    ]


MAKE = "kubectl -n {} create configmap {} --from-file=proxy.yaml"


def annotated(**annotations: str) -> dict:
    """Returns the metadata of a pod with these annotations of ours."""
    ours = {f"idjag-proxy.io/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return {"metadata": f"annotations: {json.dumps(ours)}"}


@case("d: pods and workloads that are accepted but doubtful come with a warning by kubectl")
def doubted(world: Cluster):
    proxied = annotated(http_proxy="true")
    for fields, warning in [
        (
            {"settings": "terminationGracePeriodSeconds: 5"},
            "terminationGracePeriodSeconds is 5: calls may be cut off when the pod stops; use 30",
        ),
        (
            {"container": "securityContext: { privileged: true }"},
            "container agent is privileged: nothing on its node is hidden from it",
        ),
        (
            proxied | {"container": "env: [{ name: HTTP_PROXY, value: 'http://other.example' }]"},
            "container agent keeps its own HTTP_PROXY and therefore does not use the proxy",
        ),
        (
            proxied | {"container": "env: [{ name: no_proxy, value: other.example }]"},
            "container agent keeps its own no_proxy; it should contain localhost,127.0.0.1,::1",
        ),
        (
            proxied | {"container": "envFrom: [{ configMapRef: { name: any } }]"},
            "container agent has envFrom: if it brings http_proxy or no_proxy, those set here override them",
        ),
    ]:
        done = world.ask(agents.PLAIN, "create", "--dry-run=server", "-o", "json", **plain("agents", fields))
        expect(done.returncode == 0 and has_sidecar(json.loads(done.stdout)), f"a pod with {fields}: {done.stderr}")
        expect_words(fields, done.stderr, [f"Warning: idjag-proxy: {warning}"])
        done = world.ask(workload("Deployment", plain("agents", fields)), "apply", "--dry-run=server")
        expect(done.returncode == 0, f"a Deployment with {fields}: {done.stderr}")
        expect_words(fields, done.stderr, [f"Warning: idjag-proxy: {warning}"])


@case("d: an injector that may not read ConfigMaps injects and warns; one that is called for other objects warns")
def misconfigured(world: Cluster):
    def answer():
        return world.ask(agents.PLAIN, "create", "--dry-run=server", "-o", "json", **plain("agents", {}))

    warning = "Warning: idjag-proxy: could not check whether ConfigMap agents/idjag-proxy exists"
    binding = world.get("clusterrolebinding", INJECTOR)
    world.kubectl("delete", "clusterrolebinding", INJECTOR)
    try:

        def warned():
            return [done for done in [answer()] if warning in done.stderr]

        done = wait_until("the warning of a ConfigMap", warned, 30)[0]
        expect(done.returncode == 0 and has_sidecar(json.loads(done.stdout)), f"it has no sidecar: {done.stderr}")
    finally:
        for field in ("resourceVersion", "uid", "creationTimestamp"):
            del binding["metadata"][field]
        world.kubectl("create", "-f", "-", manifest=json.dumps(binding))
    wait_until("an answer without a warning", lambda: "Warning" not in answer().stderr, 30)

    [bundle] = bundles(world)
    world.apply(TOO_WIDE, service=INJECTOR, namespace=OWN_NAMESPACE, bundle=base64.b64encode(bundle.encode()).decode())
    try:
        words = ["create", "configmap", "any", "-n", "agents", "--dry-run=server"]

        def asked():
            return world.node.ask_kubectl(*words)

        def warned():
            return "configmaps are not handled; the rules of its webhook are too broad" in asked().stderr

        wait_until("the warning of the rules", warned, 30)
        expect(asked().returncode == 0, f"a ConfigMap was refused: {asked().stderr}")
    finally:
        world.kubectl("delete", "mutatingwebhookconfiguration", "too-wide")


# A webhook configuration with one rule too many.
TOO_WIDE = """
    apiVersion: admissionregistration.k8s.io/v1
    kind: MutatingWebhookConfiguration
    metadata: { name: too-wide }
    webhooks:
      - name: too-wide.idjag-proxy.io
        clientConfig: { service: { name: $service, namespace: $namespace, path: /mutate }, caBundle: $bundle }
        admissionReviewVersions: [v1]
        sideEffects: NoneOnDryRun
        failurePolicy: Ignore
        namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: agents } }
        rules: [{ apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE] }]
    """


def plain(namespace: str, fields: dict) -> dict:
    return {"name": "plain", "namespace": namespace, "metadata": "", "settings": "", "container": ""} | fields


def expect_words(fields: dict, text: str, words: list[str]):
    for word in words:
        expect(word in text, f"{fields}: {word!r} is not in: {text}")


# The kinds of workloads and their API versions.
KINDS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
}


def workload(kind: str, values: dict) -> str:
    restart = "Never" if kind in ("Job", "CronJob") else "Always"
    labels, metadata = "labels: { app: plain, ", values["metadata"]
    with_labels = metadata.replace("labels: { ", labels) if "labels: { " in metadata else f"{labels}}}, {metadata}"
    pod = {
        "metadata": f"{{ {with_labels} }}",
        "spec": [f"restartPolicy: {restart}", values["settings"]],
    }
    container = f'{{ name: agent, image: "idjag-agents:1", command: [sleep, infinity], {values["container"]} }}'
    template = [
        f"metadata: {pod['metadata']}",
        "spec:",
        *(f"  {line}" for line in pod["spec"]),
        f"  containers: [{container}]",
    ]
    selector = "selector: { matchLabels: { app: plain } }"
    spec = {
        "Deployment": [selector, "template:", *_in(template)],
        "StatefulSet": [selector, "serviceName: plain", "template:", *_in(template)],
        "DaemonSet": [selector, "template:", *_in(template)],
        "Job": ["template:", *_in(template)],
        "CronJob": ["schedule: '0 0 1 1 *'", "jobTemplate:", "  spec:", "    template:", *_in(_in(_in(template)))],
    }[kind]
    head = [f"apiVersion: {KINDS[kind]}", f"kind: {kind}"]
    return "\n".join([*head, f"metadata: {{ name: plain, namespace: {values['namespace']} }}", "spec:", *_in(spec)])


def _in(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


@case("d: a refused pod is also an event of the workload that created it")
def event(world: Cluster):
    world.kubectl("apply", "-f", "-", manifest=workload("Deployment", plain("agents", {"settings": "hostPID: true"})))
    try:

        def ours():
            return [
                one["message"]
                for one in world.get("events", "-n", "agents")["items"]
                if "idjag-proxy" in one.get("reportingComponent", "") + one.get("source", {}).get("component", "")
            ]

        wait_until("the injector's event", lambda: any("hostPID is true" in text for text in ours()), 30)
    finally:
        world.kubectl("delete", "deployment/plain", "-n", "agents", "--wait=false")


@case("d: the pod's label wins; unlabelled pods, kube-system and the injector's namespace never call the injector")
def labels(world: Cluster):
    two_ready(world)

    def inject(value):
        return {"metadata": f"labels: {{ idjag-proxy.io/inject: {value} }}"}

    make_namespace(world, "by-pod")
    world.kubectl("label", "namespace", "by-pod", "idjag-proxy.io/inject-")

    def created(namespace, fields):
        return json.loads(create(world, namespace, fields))

    labelled = created("by-pod", inject("enabled"))
    expect(has_sidecar(labelled), "a labelled pod in an unlabelled namespace has no sidecar")
    before = reviews(world)
    for namespace, fields in [
        ("elsewhere", {}),
        ("by-pod", {}),
        ("agents", inject("disabled")),
        ("kube-system", {}),
        ("kube-system", inject("enabled")),
        (OWN_NAMESPACE, inject("enabled") | {"container": agents.RESTRICTED}),
    ]:
        expect(not has_sidecar(created(namespace, fields)), f"a sidecar in {namespace} with {fields}")
    world.kubectl("apply", "--dry-run=server", "-f", "-", manifest=workload("Deployment", plain("elsewhere", {})))
    expect(reviews(world) == before, f"{reviews(world) - before:.0f} of them were reviewed")
    expect(has_sidecar(created("agents", {})), "a pod of a labelled namespace has no sidecar")
    expect(reviews(world) == before + 1, "the reviews are not counted")


def create(world: Cluster, namespace: str, fields: dict) -> str:
    done = world.ask(agents.PLAIN, "create", "--dry-run=server", "-o", "json", **plain(namespace, fields))
    expect(done.returncode == 0, f"a pod in {namespace} with {fields}: {done.stderr}")
    return done.stdout


@case("d: no injector: with Fail only labelled pods wait, with Ignore they start without a sidecar")
def without_injector(world: Cluster):
    agent = Agent(world, world.pod("agents", "app=python"))
    agent.expect_no_failure("nothing had happened yet")

    def policy(value):
        return ["--reuse-values", "--set", f"injector.failurePolicy={value}", "--wait", "--timeout", "120s"]

    scaled_to_nothing(world)
    done = world.ask(agents.PLAIN, "create", "--dry-run=server", **plain("agents", {}))
    expect(done.returncode != 0, "with Fail a pod was created without an injector")
    expect_words({}, done.stderr, ["failed calling webhook", "namespace.idjag-proxy.io"])
    create(world, "elsewhere", {})
    applied = world.ask(workload("Deployment", plain("agents", {})), "apply", "--dry-run=server")
    expect(applied.returncode == 0, f"a workload could not be applied: {applied.stderr}")

    upgrade = ["upgrade", RELEASE, world.chart, "-n", OWN_NAMESPACE]
    world.helm(*upgrade, *policy("Ignore"))
    scaled_to_nothing(world)
    expect(not has_sidecar(json.loads(create(world, "agents", {}))), "a sidecar without an injector")
    world.helm(*upgrade, *policy("Fail"))
    world.kubectl("scale", f"deployment/{INJECTOR}", "-n", OWN_NAMESPACE, "--replicas=2")
    two_ready(world)
    with Creation(world) as creation:
        creation.more(5)
    creation.expect_no_failure("the injectors were back")
    agent.more(20)
    agent.expect_no_failure("there was no injector")


def scaled_to_nothing(world: Cluster):
    world.kubectl("scale", f"deployment/{INJECTOR}", "-n", OWN_NAMESPACE, "--replicas=0")
    wait_until("no injector", lambda: not world.get("pods", "-n", OWN_NAMESPACE, "-l", SELECTOR)["items"], 90)
