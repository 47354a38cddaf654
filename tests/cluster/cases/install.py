"""a: from `helm install` to the first call that carries a token."""

import json
import re
import time
from functools import partial

from cluster import agents
from cluster.world import (
    CALENDAR,
    INJECTOR,
    OWN_NAMESPACE,
    RELEASE,
    SIDECAR,
    UPSTREAM,
    Agent,
    Cluster,
    is_ready,
    text_of,
)
from harness.cases import case, expect
from harness.keycloak import SCOPES
from harness.parts import wait_until

GOAL = 120  # seconds


@case("a: helm install, a labelled namespace, two agents: their plain calls arrive with Keycloak's token, over mTLS")
def install(world: Cluster) -> str:
    chart = world.package(world.version)
    world.register("agents", "calendar")
    # The injector runs at the strictest level.
    world.apply(agents.NAMESPACE, name=OWN_NAMESPACE, labels="pod-security.kubernetes.io/enforce: restricted")
    started = time.monotonic()
    values = ["--set", f"injector.socket={world.workload_api}", "--set", "injector.logLevel=debug"]
    waiting = ["--create-namespace", "--wait", "--timeout", "120s"]
    world.helm("install", RELEASE, chart, "-n", OWN_NAMESPACE, *waiting, *values)
    installed = time.monotonic()
    make_namespace(world, "agents")
    world.apply(agents.CURL)
    world.apply(agents.PYTHON, linger=6)

    first = world.arrivals.first
    wait_until("curl's first call", lambda: (CALENDAR, "curl") in first, 120)
    wait_until("Python's first call", lambda: (CALENDAR, "python") in first, 120)
    took = min(first[CALENDAR, name] for name in ("curl", "python")) - started
    expect(took < GOAL, f"the first call came after {took:.0f} s, the goal is {GOAL}")

    seen = world.arrivals.last[CALENDAR, "curl"]
    expect(SCOPES[0] in seen["claims"]["scope"].split(), f"scope {seen['claims']}")
    expect(f"URI={CALENDAR}" in seen["xfcc"], f"the upstream pod saw another caller: {seen['xfcc'][:200]}")
    expect(f"By={UPSTREAM}" in seen["xfcc"], f"another upstream pod was called: {seen['xfcc'][:200]}")
    expect(world.arrivals.refused == 0, f"{world.arrivals.refused} calls arrived without a valid token")
    agent = Agent(world, world.pod("agents", "app=python"))
    agent.more(100)
    agent.expect_no_failure("everything started")
    pod = world.pod("agents", "app=curl")
    wait_until("curl's log", lambda: world.log("agents", pod["metadata"]["name"], "agent").strip(), 10)
    answers = set(world.log("agents", pod["metadata"]["name"], "agent").split())
    expect(answers == {"200"}, f"curl received {answers}")
    in_helm = installed - started
    return f"{took:.1f} s from helm install to the first authenticated call, {in_helm:.1f} s of them in helm"


def make_namespace(world: Cluster, name: str, configuration: str | None = None):
    """Creates a labelled namespace with its sidecars' ConfigMap and its agents' service
    accounts.
    """
    world.apply(agents.NAMESPACE, name=name, labels="idjag-proxy.io/inject: enabled")
    for account in ("calendar", "late"):
        world.apply(agents.ACCOUNT, name=account, namespace=name)
    configure(world, name, configuration or usual(world))


def usual(world: Cluster, scope: str = SCOPES[0]) -> str:
    return text_of(agents.CONFIGURATION, {"issuer": world.keycloak.issuer(), "scope": scope})


def configure(world: Cluster, namespace: str, configuration: str):
    ca = (world.node.pki / "ca.pem").read_text()
    world.apply(agents.CONFIG_MAP, namespace=namespace, configuration=json.dumps(configuration), ca=json.dumps(ca))


@case("a: SPIRE attests namespace, service account and container: another container of the account has no identity")
def attested(world: Cluster):
    """Probes with the same program, socket and account, in pods that are not injected."""
    world.apply(agents.NAMESPACE, name="elsewhere", labels="")
    for namespace, account, container in [
        ("agents", "calendar", "another"),
        ("elsewhere", "calendar", SIDECAR),
        ("agents", "late", SIDECAR),
    ]:
        if namespace == "elsewhere":
            world.apply(agents.ACCOUNT, name=account, namespace=namespace)
        name = f"probe-{container}-{account}"
        values = {"name": name, "namespace": namespace, "account": account, "container": container}
        world.apply(
            PROBE,
            image=f"{SIDECAR}:{world.version}",
            sockets=world.spire.agent_socket.parent,
            version=world.version,
            **values,
        )
        what = f"{namespace}/{account}/{container}: the Workload API's refusal"
        wait_until(what, partial(is_refused, world, namespace, name, container), 60)
        world.kubectl("delete", "pod", name, "-n", namespace, "--grace-period=0", "--force")


def is_refused(world: Cluster, namespace: str, pod: str, container: str) -> bool:
    log = world.log(namespace, pod, container)
    return re.search("PermissionDenied|no identity|not registered", log) is not None


# The sidecar's image as an ordinary container of a pod that opted out of injection.
PROBE = """
    apiVersion: v1
    kind: ConfigMap
    metadata: { name: probe, namespace: $namespace }
    data:
      proxy.yaml: |
        authorization_servers:
          sso: { issuer: "https://sso.example.com", client_auth: spiffe_jwt }
        routes:
          - match: { host: reports.example.com }
            token: { flow: { client_credentials: { server: sso } } }
    ---
    apiVersion: v1
    kind: Pod
    metadata: { name: $name, namespace: $namespace, labels: { idjag-proxy.io/inject: disabled } }
    spec:
      serviceAccountName: $account
      containers:
        - name: $container
          image: $image
          args: [run, /config/proxy.yaml, --workload-api-socket=unix:///spiffe/api.sock]
          volumeMounts:
            - { name: config, mountPath: /config }
            - { name: spiffe, mountPath: /spiffe, readOnly: true }
      volumes:
        - { name: config, configMap: { name: probe } }
        - { name: spiffe, hostPath: { path: $sockets, type: Directory } }
    """


@case("a: helm test")
def helm_test(world: Cluster):
    world.helm("test", RELEASE, "-n", OWN_NAMESPACE, "--timeout", "120s")


@case("a: the injector serves two replicas, each with a certificate that the webhook configuration trusts")
def injectors(world: Cluster):
    pods = world.pods(OWN_NAMESPACE, "app.kubernetes.io/component=injector")
    expect(len(pods) == 2 and all(map(is_ready, pods)), f"{len(pods)} replicas are there, or not all are ready")
    hooks = world.get("mutatingwebhookconfiguration", INJECTOR)["webhooks"]
    bundles = {hook["clientConfig"].get("caBundle") for hook in hooks}
    expect(len(bundles) == 1 and all(bundles), f"the webhooks trust {len(bundles)} bundles")
