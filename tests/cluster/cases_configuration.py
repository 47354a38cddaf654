"""c: the ConfigMap changes under running pods."""

from cases import case
from cases_install import configure, usual
from cluster_world import CALENDAR, Agent, Cluster, metric
from keycloak import SCOPES
from parts import expect, wait_until

# The kubelet's own period here, and the time that Kubernetes adds: it looks at changed ConfigMaps at the next one.
SYNC = 60  # seconds


@case("c: a changed ConfigMap is live within the kubelet's sync, without a restart")
def changed(world: Cluster):
    pod = world.pod("agents", "app=python")
    agent, accepted = Agent(world, pod), metric(pod, "config_reloads_total", result="accepted")
    expect(SCOPES[1] not in scopes(world), f"the scope is there already: {scopes(world)}")
    configure(world, "agents", usual(world, SCOPES[1]))
    try:
        wait_until("tokens with the new scope", lambda: SCOPES[1] in scopes(world), SYNC)
        expect(metric(pod, "config_reloads_total", result="accepted") > accepted, "not counted as accepted")
        agent.expect_no_failure("the configuration changed")
    finally:
        configure(world, "agents", usual(world))
    wait_until("tokens with the old scope", lambda: SCOPES[1] not in scopes(world), SYNC)
    agent.expect_no_failure("the configuration changed back")


def scopes(world: Cluster) -> list[str]:
    """Of the token that arrived last from the Python agent."""
    return world.arrivals.last[CALENDAR, "python"]["claims"]["scope"].split()


@case("c: a broken ConfigMap is refused with the old one kept, visible in metric, status and log")
def broken(world: Cluster):
    pod = world.pod("agents", "app=python")
    agent, refused = Agent(world, pod), metric(pod, "config_reloads_total", result="refused")
    configure(world, "agents", usual(world).replace("reports.example.com", "not a host"))
    try:
        wait_until(
            "the refusal in the metric", lambda: metric(pod, "config_reloads_total", result="refused") > refused, SYNC
        )
        configuration = world.status_of_sidecar(pod)["config"]
        expect("not a host" in str(configuration), f"the status does not say why: {configuration}")
        log = world.log("agents", pod["metadata"]["name"], "idjag-proxy")
        expect("not a host" in log, "the log does not say why")
        agent.more(50)
        agent.expect_no_failure("the configuration was broken")
    finally:
        configure(world, "agents", usual(world))
    recovered = lambda: "not a host" not in str(world.status_of_sidecar(pod)["config"])
    wait_until("the status to forget it", recovered, SYNC)
