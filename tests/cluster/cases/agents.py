"""b: agents of every kind, from their first call to their last."""

import os
import re
import subprocess
import urllib.parse

from cluster import agents
from cluster.cases.install import configure, usual
from cluster.world import BY_HAND, CALENDAR, LATE, PIPED, REPOSITORY, SIDECAR, Agent, Cluster, condition, text_of
from harness.cases import case, expect
from harness.parts import fetch, wait_until


@case("b: a Job with the sidecar completes")
def job(world: Cluster):
    world.apply(agents.JOB)

    def status():
        return world.get("job", "once", "-n", "agents")["status"]

    wait_until("the Job to complete", lambda: status().get("succeeded") == 1 or status().get("failed"), 90)
    expect(status().get("succeeded") == 1, f"the Job failed: {status()}")
    expect(world.arrivals.calls[CALENDAR, "job"] == 1, f"{world.arrivals.calls[CALENDAR, 'job']} calls arrived")
    (pod,) = world.pods("agents", "job-name=once")

    def phase():
        return world.get("pod", pod["metadata"]["name"], "-n", "agents")["status"]["phase"]

    wait_until("its pod to end", lambda: phase() == "Succeeded", 60)


@case("b: by hand: Deployment, Job and CronJob of deploy/ work as they are written, in an unlabelled namespace")
def by_hand(world: Cluster):
    """Replaces their configuration, agents and socket by those of this suite."""
    overlay = world.run.directory / "by-hand"
    overlay.mkdir()
    (overlay / "proxy.yaml").write_text(usual(world).replace("reports.example.com", "api.example.com"))
    (overlay / "sso-ca.pem").write_text((world.node.pki / "ca.pem").read_text())
    base = os.path.relpath((REPOSITORY / "deploy/overlays/host-path").resolve(), overlay.resolve())
    (overlay / "kustomization.yaml").write_text(text_of(OVERLAY, {"base": base, "version": world.version}))
    written = world.kubectl("kustomize", str(overlay))
    # In deploy/ the socket has the name that SPIRE's charts give it.
    sockets = world.spire.agent_socket.parent
    (sockets / "spire-agent.sock").symlink_to(world.spire.agent_socket.name)
    theirs = "/run/spire/agent-sockets"
    expect(theirs in written, "deploy/overlays/host-path has another directory")
    world.register("by-hand", "calendar")
    world.kubectl("apply", "-f", "-", manifest=written.replace(theirs, str(sockets)))
    world.kubectl("create", "job", "hourly", "--from=cronjob/calendar-hourly", "-n", "by-hand")

    def jobs():
        return world.get("jobs", "-n", "by-hand")["items"]

    wait_until("both jobs to complete", lambda: [job["status"].get("succeeded") for job in jobs()] == [1, 1], 120)
    world.wait_ready("by-hand", "calendar")

    def arrived():
        return world.arrivals.calls[BY_HAND, "v1/events"]

    wait_until("the jobs' calls and one of the Deployment's", lambda: arrived() >= 3, 30)
    world.kubectl("delete", "namespace", "by-hand", "--wait=false")


OVERLAY = """
    namespace: by-hand
    resources: ["$base"]
    configMapGenerator:
      - { name: idjag-proxy, namespace: agents, behavior: replace, files: [proxy.yaml, sso-ca.pem] }
    generatorOptions: { disableNameSuffixHash: true }
    images:
      - { name: curlimages/curl, newName: idjag-agents, newTag: "1" }
      - { name: idjag-proxy, newTag: "$version" }
    """


@case("b: `idjag-proxy inject | kubectl apply` creates a Job that works, in an unlabelled namespace")
def inject(world: Cluster):
    world.apply(agents.NAMESPACE, name="piped", labels="")
    world.apply(agents.ACCOUNT, name="calendar", namespace="piped")
    configure(world, "piped", usual(world))
    world.register("piped", "calendar")
    program = [world.images.program("injector"), "inject", "--socket", world.workload_api]
    job = text_of(agents.JOB, {}).replace("namespace: agents", "namespace: piped")
    piped = subprocess.run(program, input=job, capture_output=True, text=True)
    expect(piped.returncode == 0, f"inject ended with {piped.returncode}: {piped.stderr}")
    world.kubectl("apply", "-f", "-", manifest=piped.stdout)

    def status():
        return world.get("job", "once", "-n", "piped")["status"]

    wait_until("the Job to complete", lambda: status().get("succeeded") == 1 or status().get("failed"), 90)
    expect(status().get("succeeded") == 1, f"the Job failed: {status()}")
    expect(world.arrivals.calls[PIPED, "job"] == 1, "its call did not arrive")


@case("b: an init container that starts after the sidecar can call")
def initial(world: Cluster):
    world.apply(agents.INITIAL)

    def phase():
        return world.get("pod", "initial", "-n", "agents")["status"]["phase"]

    wait_until("the pod to end", lambda: phase() in ("Succeeded", "Failed"), 90)
    expect(phase() == "Succeeded", f"the pod ended as {phase()}: {world.log('agents', 'initial', 'prepare')}")
    expect(world.arrivals.calls[CALENDAR, "initial"] == 1, "its call did not arrive")


@case("b: a pod whose identity is not registered waits, reports why, and starts once it is registered")
def late(world: Cluster):
    world.apply(agents.LATE)

    def pod():
        return world.get("pod", "late", "-n", "agents")

    def address():
        return pod()["status"].get("podIP")

    def startup():
        return fetch(f"http://{address()}:17090/startupz")

    why = r"identity|SVID"
    wait_until("the sidecar to report what it waits for", lambda: address() and re.search(why, startup()[1]), 60)
    expect(startup()[0] == 503, f"it started without an identity: {startup()}")

    def in_log():
        return re.search("not registered|PermissionDenied|no identity", world.log("agents", "late", SIDECAR))

    wait_until("the reason in the sidecar's log", in_log, 30)
    states = {condition(pod(), name) for name in ("Ready", "Initialized")}
    expect("True" not in states, f"it is ready: {pod()['status']}")
    (sidecar,) = pod()["status"]["initContainerStatuses"]
    expect(sidecar["restartCount"] == 0, "the sidecar was restarted instead of waiting")

    world.register("agents", "late")
    wait_until("the pod to be ready", lambda: condition(pod(), "Ready") == "True", 60)
    wait_until("its call", lambda: world.arrivals.calls[LATE, "late"] == 1, 30)
    (sidecar,) = pod()["status"]["initContainerStatuses"]
    expect(sidecar["restartCount"] == 0, "the sidecar was restarted")
    world.kubectl("delete", "pod", "late", "-n", "agents", "--wait=false")


@case("b: the upstream restarts under load: no failed call")
def upstream_restarts(world: Cluster):
    agent = Agent(world, world.pod("agents", "app=python"))
    agent.expect_no_failure("nothing had happened yet")
    agent.more(50)
    before = world.pod("upstream", "app=reports")["metadata"]["name"]
    world.kubectl("rollout", "restart", "deployment/reports", "-n", "upstream")
    world.wait_ready("upstream", "reports")

    def gone():
        return world.node.ask_kubectl("get", "pod", before, "-n", "upstream").returncode != 0

    wait_until("the old upstream pod to be gone", gone, 60)
    agent.more(100)
    agent.expect_no_failure("the upstream restarted")
    expect(world.pod("upstream", "app=reports")["metadata"]["name"] != before, "the upstream pod was not replaced")


@case("b: a deleted agent finishes its last calls while the sidecar drains")
def last_calls(world: Cluster) -> str:
    pod = world.pod("agents", "app=python")
    name = pod["metadata"]["name"]
    farewells = world.arrivals.calls[CALENDAR, "farewell"]
    last = world.arrivals.calls[CALENDAR, "last"]
    world.kubectl("delete", "pod", name, "-n", "agents", "--wait=false")

    def draining():
        return fetch(f"http://{pod['status']['podIP']}:17090/readyz")

    wait_until("the agent's farewell", lambda: world.arrivals.calls[CALENDAR, "farewell"] > farewells, 60)
    farewell = world.arrivals.last[CALENDAR, "farewell"]["path"]
    failed = urllib.parse.parse_qs(urllib.parse.urlsplit(farewell).query)["failed"]
    expect(failed == ["0"], f"{failed[0]} of its last calls failed")
    made = world.arrivals.calls[CALENDAR, "last"] - last
    expect(made > 50, f"only {made} calls after SIGTERM")

    def gone():
        return world.node.ask_kubectl("get", "pod", name, "-n", "agents").returncode != 0

    # The grace period is 30 s, at whose end a sidecar that does not drain is killed.
    wait_until("the pod to be gone", gone, 20)
    expect(draining()[0] == 0, "its sidecar still answers")
    Agent(world, world.pod("agents", "app=python")).more(20)
    return f"{made} calls after SIGTERM"
