"""c: the ConfigMap and the Secret, and how changes reach running pods."""

import json
import ssl

from cluster import agents
from cluster.cases.install import configure, usual
from cluster.node import HOST
from cluster.world import CALENDAR, SIDECAR, Agent, Cluster, metric, text_of
from harness.cases import case, expect
from harness.keycloak import SCOPES
from harness.parts import wait_until
from harness.web import Handler, Server

# The kubelet's sync period here plus the delay that Kubernetes adds, because the kubelet sees a
# changed ConfigMap in the next period.
SYNC = 60  # seconds
# Keys of a service that only accepts static keys.
FIRST, SECOND = "key-of-yesterday-3f9a", "key-of-today-b71c"


@case("c: a changed ConfigMap takes effect within the kubelet's sync period, without a restart")
def changed(world: Cluster):
    pod = world.pod("agents", "app=python")
    agent, accepted = Agent(world, pod), metric(pod, "config_reloads_total", result="accepted")
    expect(SCOPES[1] not in scopes(world), f"the scope is already granted: {scopes(world)}")
    configure(world, "agents", usual(world, SCOPES[1]))
    try:
        wait_until("tokens with the new scope", lambda: SCOPES[1] in scopes(world), SYNC)
        expect(
            metric(pod, "config_reloads_total", result="accepted") > accepted, "the reload is not counted as accepted"
        )
        agent.expect_no_failure("the configuration changed")
    finally:
        configure(world, "agents", usual(world))
    wait_until("tokens with the old scope", lambda: SCOPES[1] not in scopes(world), SYNC)
    agent.expect_no_failure("the configuration changed back")


def scopes(world: Cluster) -> list[str]:
    """Returns the scopes of the token that last arrived from the Python agent."""
    return world.arrivals.last[CALENDAR, "python"]["claims"]["scope"].split()


@case("c: a broken ConfigMap is refused, the old one stays in use, and metric, status and log show it")
def broken(world: Cluster):
    pod = world.pod("agents", "app=python")
    agent, refused = Agent(world, pod), metric(pod, "config_reloads_total", result="refused")
    configure(world, "agents", usual(world).replace("reports.example.com", "not a host"))
    try:

        def is_counted():
            return metric(pod, "config_reloads_total", result="refused") > refused

        wait_until("the refusal in the metric", is_counted, SYNC)
        configuration = world.status_of_sidecar(pod)["config"]
        expect("not a host" in str(configuration), f"the status lacks the reason: {configuration}")
        log = world.log("agents", pod["metadata"]["name"], "idjag-proxy")
        expect("not a host" in log, "the log lacks the reason")
        agent.more(50)
        agent.expect_no_failure("the configuration was broken")
    finally:
        configure(world, "agents", usual(world))

    def recovered():
        return "not a host" not in str(world.status_of_sidecar(pod)["config"])

    wait_until("the status to be healthy again", recovered, SYNC)


@case("c: the README's agent calls with a key of the Secret, which the agent cannot see; a changed key takes effect")
def key(world: Cluster):
    """Its container is named after its image, because `kubectl create deployment` created it."""
    service = KeyService(world)

    def create(*words):
        return world.kubectl("create", *words)

    create("namespace", "keys")
    create("serviceaccount", "calendar", "-n", "keys")
    create("deployment", "calendar", "--image=idjag-agents:1", "-n", "keys", "--", "sleep", "infinity")
    world.kubectl("set", "serviceaccount", "deployment", "calendar", "calendar", "-n", "keys")
    configure(world, "keys", text_of(agents.KEYED, {"url": service.url}))
    create("secret", "generic", "idjag-proxy", "-n", "keys", f"--from-literal=search-api-key={FIRST}")
    world.kubectl("label", "namespace", "keys", "idjag-proxy.io/inject=enabled")
    world.kubectl("rollout", "restart", "deployment", "calendar", "-n", "keys")
    try:
        pod = world.pod("keys", "idjag-proxy.io/injected=true")
        agent = ["exec", pod["metadata"]["name"], "-n", "keys", "-c", "idjag-agents", "--"]
        call = ["curl", "-fsS", "http://127.0.0.1:17080/search.example.com/find", "-H", "x-api-key: mine"]
        world.kubectl(*agent, *call)
        expect(service.keys == [[FIRST]], f"the calls carried {service.keys}")
        expect(metric(pod, "requests_total") >= 1, "the call bypassed the sidecar")
        seen = world.kubectl(*agent, "sh", "-c", "env; grep -rs . /etc/idjag-proxy || true")
        expect(FIRST not in seen, f"the agent can see the key: {seen}")
        log = world.log("keys", pod["metadata"]["name"], SIDECAR)
        expect(log and FIRST not in log, "the key is in the log")
        patch = json.dumps({"stringData": {"search-api-key": SECOND}})
        world.kubectl("patch", "secret", "idjag-proxy", "-n", "keys", "-p", patch)

        def again():
            return world.kubectl(*agent, *call) and service.keys[-1] == [SECOND]

        wait_until("a call with the new key", again, 2 * SYNC)
    finally:
        world.kubectl("delete", "namespace", "keys", "--wait=false")


class KeyService(Server):
    """An HTTPS API on this machine that records the keys of each call."""

    def __init__(self, world: Cluster):
        self.keys: list[list[str]] = []
        super().__init__(world.run, _Keyed, HOST)
        pki = world.node.pki
        world.node.settings.certificate("search", "/CN=search", f"subjectAltName=IP:{HOST}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "search.pem", pki / "search.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://{HOST}:{self.port}"


class _Keyed(Handler):
    def do_GET(self):
        self.server.keys.append(self.headers.get_all("x-api-key", []))
        self.reply(200, {})
