"""b: pods registered by SPIRE's controller manager, as with SPIRE's charts."""

import base64
import json

from cluster import agents, controller_manager
from cluster.cases.injector import plain
from cluster.cases.install import make_namespace
from cluster.world import REGISTERED, REPOSITORY, SIDECAR, Cluster, is_ready
from harness.cases import Failed, case, expect
from harness.parts import Part, fetch, free_ports, wait_until
from harness.spire import TRUST_DOMAIN

NAMESPACE = "registered"
OURS = REPOSITORY / "deploy/spire/cluster-spiffe-id.yaml"
VALUES = REPOSITORY / "deploy/spire/values.yaml"
# The class of SPIRE's chart, whose release `spire` is in the namespace `spire-server`.
CLASS = "spire-server-spire"
# The prefix of the ids of the controller manager's entries. It ignores other entries.
PREFIX = "example-cluster"
# The selectors of an entry within a pod.
WHOLE, SIDECAR_ALONE = [], [f"k8s:container-name:{SIDECAR}"]


@case(
    "b: SPIRE's controller manager: its chart's default gives the identity to the whole pod, deploy/spire to the "
    "sidecar alone, whose call arrives; a pod without a sidecar keeps the default"
)
def registered(world: Cluster):
    others = entries_of_others(world)
    # Existing agents must not get a second identity, which other cases do not expect.
    ignored = [one["metadata"]["name"] for one in world.get("namespaces")["items"]]
    make_namespace(world, NAMESPACE)
    crds = controller_manager.place(world.cache.root) / "crds"
    world.kubectl("apply", "-f", str(crds))
    world.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(crds))
    manager = None
    try:
        manager = start(world, ignored)
        world.apply(DEFAULT, name=CLASS, fallback="false")
        first = create(world, "first")
        expect_registered(world, first, [WHOLE], manager)
        world.kubectl("apply", "-f", str(OURS))
        # This is why values.yaml sets `fallback`.
        expect_registered(world, first, [WHOLE, SIDECAR_ALONE], manager)
        world.apply(DEFAULT, name=CLASS, fallback="true")
        expect_registered(world, first, [SIDECAR_ALONE], manager)

        # This pod has never had another registration.
        second = create(world, "second")
        expect_registered(world, second, [SIDECAR_ALONE], manager)
        wait_until("the pod to be ready", lambda: is_ready(pod(world, "second")), 60)
        words = ["exec", "-n", NAMESPACE, "second", "-c", "agent", "--"]
        world.kubectl(*words, "curl", "-fsS", "http://127.0.0.1:17080/reports.example.com/registered")
        expect(world.arrivals.calls[REGISTERED, "registered"] == 1, "its call did not arrive")
        without = create(world, "without", "labels: { idjag-proxy.io/inject: disabled }")
        expect_registered(world, without, [WHOLE], manager)

        world.kubectl("delete", "clusterspiffeids", "--all")
        wait_until("its entries to be removed", lambda: not [one for one in entries(world) if own(one)], 60, manager)
        expect(entries_of_others(world) == others, f"it changed entries of others: {entries_of_others(world) ^ others}")
    finally:
        if manager:
            manager.stop()
        world.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
        world.kubectl("delete", "-f", str(crds))


# SPIRE's chart 0.30 renders this. `fallback` is true by default, and was false before 0.24.
DEFAULT = """
    apiVersion: spire.spiffe.io/v1alpha1
    kind: ClusterSPIFFEID
    metadata: { name: $name-default, labels: { spire.spiffe.io/class-name: $name } }
    spec:
      className: $name
      hint: default
      spiffeIDTemplate: "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}"
      namespaceSelector:
        matchExpressions: [{ key: kubernetes.io/metadata.name, operator: NotIn, values: [spire-server] }]
      fallback: $fallback
    """


def start(world: Cluster, ignored: list[str]) -> Part:
    """Starts the controller manager as SPIRE's chart configures it.

    The parent differs because the agent here is attested by a join token, and there is one replica.
    """
    metrics, health = free_ports(2)
    configuration = {
        "apiVersion": "spire.spiffe.io/v1alpha1",
        "kind": "ControllerManagerConfig",
        "metadata": {"name": "spire-controller-manager"},
        "metrics": {"bindAddress": f"127.0.0.1:{metrics}"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "clusterName": PREFIX,
        "clusterDomain": "cluster.local",
        "trustDomain": TRUST_DOMAIN,
        "entryIDPrefix": PREFIX,
        "ignoreNamespaces": [f"^{name}$" for name in ignored],
        "spireServerSocketPath": str(world.run.directory / "s/api.sock"),
        "className": CLASS,
        "watchClassless": False,
        "filterByClassName": False,
        "parentIDTemplate": "spiffe://{{ .TrustDomain }}/node",
    }
    file = world.run.directory / "controller-manager.json"
    file.write_text(json.dumps(configuration))
    argv = [controller_manager.place(world.cache.root) / "spire-controller-manager", "-config", file]
    # Its webhook works only in a pod.
    environment = {"KUBECONFIG": str(world.node.kubeconfig), "ENABLE_WEBHOOKS": "false"}
    part = world.run.start("spire-controller-manager", argv, environment)
    wait_until("the controller manager", lambda: fetch(f"http://127.0.0.1:{health}/readyz")[0] == 200, 60, part)
    return part


def create(world: Cluster, name: str, metadata: str = "") -> str:
    """Creates a pod and returns its uid."""
    fields = {"name": name, "metadata": metadata, "settings": "serviceAccountName: calendar"}
    world.apply(agents.PLAIN, **plain(NAMESPACE, fields))
    return pod(world, name)["metadata"]["uid"]


def pod(world: Cluster, name: str) -> dict:
    return world.get("pod", name, "-n", NAMESPACE)


def expect_registered(world: Cluster, uid: str, expected: list[list[str]], manager: Part):
    """Expects the pod's entries to have these selectors within the pod."""
    whole = f"k8s:pod-uid:{uid}"

    def found():
        return [one for one in entries(world) if whole in selectors(one)]

    def inside():
        return sorted(sorted(selectors(one) - {whole}) for one in found())

    try:
        wait_until(f"the pod's entries to select {expected} in it", lambda: inside() == expected, 60, manager)
    except Failed as error:
        raise Failed(f"{error}\nthey select {inside()}") from error
    names = {f"spiffe://{one['spiffe_id']['trust_domain']}{one['spiffe_id']['path']}" for one in found()}
    expect(names == {REGISTERED}, f"it is registered as {names}")


def entries(world: Cluster) -> list[dict]:
    return json.loads(world.spire.server("entry", "show", "-output", "json"))["entries"]


def selectors(entry: dict) -> set[str]:
    return {f"{one['type']}:{one['value']}" for one in entry["selectors"]}


def own(entry: dict) -> bool:
    return entry["id"].startswith(f"{PREFIX}.")


def entries_of_others(world: Cluster) -> set[str]:
    return {one["id"] for one in entries(world) if not own(one)}


@case("b: the values of deploy/spire for SPIRE's chart equal its ClusterSPIFFEID")
def same_values(world: Cluster):
    ours = read(world, OURS)["spec"]
    expect(ours.pop("className") == CLASS, "the class of deploy/spire differs from this suite's")
    identities = read(world, VALUES)["spire-server"]["controllerManager"]["identities"]["clusterSPIFFEIDs"]
    expect(identities == {"default": {"fallback": True}, SIDECAR: ours}, f"{identities} differs from {ours}")


def read(world: Cluster, file) -> dict:
    """Reads YAML by Helm, because Python's standard library cannot: a chart renders its values."""
    chart = world.run.directory / "values"
    (chart / "templates").mkdir(parents=True, exist_ok=True)
    (chart / "Chart.yaml").write_text("{ apiVersion: v2, name: values, version: 0.0.1 }")
    (chart / "templates/values.yaml").write_text("values: {{ toJson .Values | b64enc }}\n")
    rendered = world.helm("template", "values", chart, "--values", file)
    return json.loads(base64.b64decode(rendered.split("values: ")[1]))
