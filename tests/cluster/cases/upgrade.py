"""f: the CSI variant, other versions of the chart, and its removal."""

import json

from cluster import agents
from cluster.cases.injector import SELECTOR, Creation, has_sidecar, plain, two_ready
from cluster.cases.install import configure, usual
from cluster.world import INJECTOR, OWN_NAMESPACE, RELEASE, REPOSITORY, Agent, Cluster
from harness.cases import case, expect
from harness.parts import wait_until


@case(
    "f: where Restricted is enforced the injector and the CSI variants of injection, deploy/ and helm test are "
    "admitted, and hostPath is not (dry runs, since the CSI driver is not available)"
)
def restricted(world: Cluster):
    labels = "idjag-proxy.io/inject: enabled, pod-security.kubernetes.io/enforce: restricted"
    world.apply(agents.NAMESPACE, name="restricted", labels=labels)
    configure(world, "restricted", usual(world))

    def by(socket):
        return {
            "metadata": f'annotations: {{ idjag-proxy.io/socket: "{socket}" }}',
            "container": agents.RESTRICTED,
        }

    words = ["create", "--dry-run=server", "-o", "json"]
    done = world.ask(agents.PLAIN, *words, **plain("restricted", by("csi")))
    expect(done.returncode == 0, f"the CSI variant: {done.stderr}")
    pod = json.loads(done.stdout)
    drivers = [volume["csi"]["driver"] for volume in pod["spec"]["volumes"] if "csi" in volume]
    expect(has_sidecar(pod) and drivers == ["csi.spiffe.io"], f"its volumes: {pod['spec']['volumes']}")
    expect("Warning" not in done.stderr, f"there is a warning: {done.stderr}")
    refused = world.ask(agents.PLAIN, *words, **plain("restricted", by(world.workload_api)))
    expect(refused.returncode != 0 and "PodSecurity" in refused.stderr, f"hostPath: {refused.stderr or refused.stdout}")
    # The level applies to pods, not to workloads, so pods are made of the templates.
    world.apply(agents.ACCOUNT, name="calendar", namespace="restricted")
    by_hand = world.kubectl("kustomize", str(REPOSITORY / "deploy/base"))
    admitted(world, "restricted", by_hand, {"calendar": 1, "calendar-once": 1, "calendar-hourly": 1})
    values = ["--set", "injector.socket=csi", "--set", "test.namespace=restricted"]
    chart = world.helm("template", RELEASE, world.chart, "-n", OWN_NAMESPACE, *values)
    for kind in ("ServiceAccount", "ConfigMap"):
        own = [one for one in objects(world, chart) if one["kind"] == kind and one["metadata"]["name"] == TEST]
        world.kubectl("apply", "-f", "-", manifest=json.dumps(own[0]))
    admitted(world, OWN_NAMESPACE, chart, {INJECTOR: 0})
    admitted(world, "restricted", chart, {TEST: 1})


TEST = f"{RELEASE}-test"


def admitted(world: Cluster, namespace: str, manifests: str, sidecars: dict[str, int]):
    """Expects the pods of these objects to be admitted.

    `sidecars` has the number of sidecars by the object's name. They find the Workload API by the
    CSI driver.
    """
    found = {one["metadata"]["name"]: one for one in objects(world, manifests) if template(one)}
    for name, count in sidecars.items():
        pod = {"apiVersion": "v1", "kind": "Pod"} | template(found[name])
        # Without the annotation it would get this injector's default, a hostPath.
        annotations = pod["metadata"].get("annotations", {}) | {"idjag-proxy.io/socket": "csi"}
        pod["metadata"] |= {"name": name, "namespace": namespace, "annotations": annotations}
        words = ["create", "--dry-run=server", "-o", "json", "-f", "-"]
        done = world.node.ask_kubectl(*words, manifest=json.dumps(pod))
        expect(done.returncode == 0, f"{name} in {namespace}: {done.stderr}")
        spec = json.loads(done.stdout)["spec"]
        expect(has_sidecar({"spec": spec}) == bool(count), f"{name}: {spec.get('initContainers')}")
        drivers = [volume["csi"]["driver"] for volume in spec["volumes"] if "csi" in volume]
        expect(drivers == ["csi.spiffe.io"] * count, f"{name} has the volumes {spec['volumes']}")


def objects(world: Cluster, manifests: str) -> list[dict]:
    """Parses the objects of manifests by kubectl, which prints one after another."""
    rest = world.kubectl("create", "--dry-run=client", "-o", "json", "-f", "-", manifest=manifests).strip()
    found = []
    while rest:
        one, end = json.JSONDecoder().raw_decode(rest)
        found.append(one)
        rest = rest[end:].lstrip()
    return found


def template(one: dict) -> dict | None:
    """Returns the template of an object's pods; a Pod is its own."""
    if one["kind"] == "Pod":
        return {"metadata": one["metadata"], "spec": one["spec"]}
    spec = one.get("spec", {})
    return spec.get("jobTemplate", {}).get("spec", spec).get("template")


@case(
    "f: an upgrade to this chart and its images under another version, and the rollback, replace the injector's pods; "
    "injected pods work and pods are created throughout"
)
def upgrade(world: Cluster) -> str:
    """There is only one version of the chart so far, so the second has the same programs.

    The labels of all objects, the injector's pods and the image of the sidecars change.
    """
    other = "99.0.0"
    world.tag_images(other)
    chart = world.package(other, app_version=other)
    agent = Agent(world, world.pod("agents", "app=python"))
    agent.expect_no_failure("nothing had happened yet")
    two_ready(world)
    revision = json.loads(world.helm("history", RELEASE, "-n", OWN_NAMESPACE, "-o", "json"))[-1]["revision"]
    with Creation(world) as creation:
        before = pods_of_injector(world)
        value = ["--reuse-values", "--set", "injector.logLevel=info"]
        world.helm("upgrade", RELEASE, chart, "-n", OWN_NAMESPACE, *value, "--wait", "--timeout", "120s")
        two_ready(world)
        creation.more(10)
        expect_version(world, other, "info")
        # Injectors of the old version still answer for a while, with the old image.
        wait_until("the old injectors to be gone", lambda: len(pods_of_injector(world)) == 2, 60)
        upgraded = pods_of_injector(world)
        expect(not before & upgraded, "an injector of the old version remains")
        world.kubectl("rollout", "restart", "deployment/curl", "-n", "agents")
        world.wait_ready("agents", "curl")
        image = sidecar_image(world.pod("agents", "app=curl"))
        expect(image.endswith(f":{other}"), f"a new pod has the sidecar {image}")
        creation.expect_no_failure("the chart was upgraded")
        agent.expect_no_failure("the chart was upgraded")

        world.helm("rollback", RELEASE, str(revision), "-n", OWN_NAMESPACE, "--wait", "--timeout", "120s")
        two_ready(world)
        creation.more(10)
        expect_version(world, world.version, "debug")
        wait_until("the newer injectors to be gone", lambda: not upgraded & pods_of_injector(world), 60)
    creation.expect_no_failure("the chart was rolled back")
    agent.more(50)
    agent.expect_no_failure("the chart was rolled back")
    return f"{creation.made} pods were created meanwhile"


def pods_of_injector(world: Cluster) -> set[str]:
    return {pod["metadata"]["uid"] for pod in world.get("pods", "-n", OWN_NAMESPACE, "-l", SELECTOR)["items"]}


def expect_version(world: Cluster, version: str, level: str):
    deployment = world.get("deployment", INJECTOR, "-n", OWN_NAMESPACE)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    expect(container["image"].endswith(f":{version}"), f"the injector's image is {container['image']}")
    expect(f"--log-level={level}" in container["args"], f"the injector's arguments are {container['args']}")


def sidecar_image(pod: dict) -> str:
    return pod["spec"]["initContainers"][0]["image"]


@case("f: an injector on its node's network, with other ports, is ready and called")
def host_network(world: Cluster):
    world.kubectl("label", "namespace", OWN_NAMESPACE, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
    # There is one replica because there is one node.
    values = {"hostNetwork": "true", "replicas": "1", "ports.webhook": "18443", "ports.metrics": "18090"}
    words = [word for key, value in values.items() for word in ("--set", f"injector.{key}={value}")]
    world.helm(
        "upgrade", RELEASE, world.chart, "-n", OWN_NAMESPACE, "--reuse-values", *words, "--wait", "--timeout", "120s"
    )
    wait_until("the injectors of the pods' network to be gone", lambda: len(pods_of_injector(world)) == 1, 60)
    (injector,) = world.get("pods", "-n", OWN_NAMESPACE, "-l", SELECTOR)["items"]
    expect(injector["status"]["podIP"] == injector["status"]["hostIP"], f"its address is {injector['status']['podIP']}")
    done = world.ask(agents.PLAIN, "create", "--dry-run=server", "-o", "json", **plain("agents", {}))
    expect(done.returncode == 0 and has_sidecar(json.loads(done.stdout)), f"a new pod: {done.stderr}")


@case("f: uninstall: the chart's objects are removed, new pods have no sidecar, running agents go on")
def uninstall(world: Cluster):
    agent = Agent(world, world.pod("agents", "app=python"))
    world.helm("uninstall", RELEASE, "-n", OWN_NAMESPACE, "--wait", "--timeout", "120s")
    for kind in ("mutatingwebhookconfigurations", "clusterroles", "clusterrolebindings"):
        names = [one["metadata"]["name"] for one in world.get(kind)["items"]]
        expect(not [name for name in names if name.startswith("idjag-proxy")], f"{kind} are left behind: {names}")
    left = world.kubectl(
        "get", "deployments,services,secrets,leases,roles,rolebindings", "-n", OWN_NAMESPACE, "-o", "name"
    ).split()
    expect(not left, f"left behind: {left}")
    done = world.ask(agents.PLAIN, "create", "--dry-run=server", "-o", "json", **plain("agents", {}))
    expect(done.returncode == 0 and not has_sidecar(json.loads(done.stdout)), f"a new pod: {done.stderr}")
    agent.more(50)
    agent.expect_no_failure("the chart was uninstalled")
