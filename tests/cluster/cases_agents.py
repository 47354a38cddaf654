"""b: agents of every kind, from their first call to their last."""

import re
import urllib.parse

import agents
from cases import case
from cluster_world import CALENDAR, LATE, SIDECAR, Agent, Cluster, condition
from parts import expect, fetch, wait_until


@case("b: a Job with the sidecar completes")
def job(world: Cluster):
    world.apply(agents.JOB)
    status = lambda: world.get("job", "once", "-n", "agents")["status"]
    wait_until("the Job to complete", lambda: status().get("succeeded") == 1 or status().get("failed"), 90)
    expect(status().get("succeeded") == 1, f"the Job failed: {status()}")
    expect(world.arrivals.calls[CALENDAR, "job"] == 1, f"{world.arrivals.calls[CALENDAR, 'job']} calls arrived")
    (pod,) = world.pods("agents", "job-name=once")
    phase = lambda: world.get("pod", pod["metadata"]["name"], "-n", "agents")["status"]["phase"]
    wait_until("its pod to end", lambda: phase() == "Succeeded", 60)


@case("b: an init container after the sidecar can call out")
def initial(world: Cluster):
    world.apply(agents.INITIAL)
    phase = lambda: world.get("pod", "initial", "-n", "agents")["status"]["phase"]
    wait_until("the pod to end", lambda: phase() in ("Succeeded", "Failed"), 90)
    expect(phase() == "Succeeded", f"the pod {phase()}: {world.log('agents', 'initial', 'prepare')}")
    expect(world.arrivals.calls[CALENDAR, "initial"] == 1, "its call did not arrive")


@case("b: a pod whose identity is not registered waits, says why, and goes on when it is registered")
def late(world: Cluster):
    world.apply(agents.LATE)
    pod = lambda: world.get("pod", "late", "-n", "agents")
    address = lambda: pod()["status"].get("podIP")
    startup = lambda: fetch(f"http://{address()}:17090/startupz")
    why = r"identity|SVID"
    wait_until("the sidecar to say what it waits for", lambda: address() and re.search(why, startup()[1]), 60)
    expect(startup()[0] == 503, f"started without an identity: {startup()}")
    in_log = lambda: re.search("not registered|PermissionDenied|no identity", world.log("agents", "late", SIDECAR))
    wait_until("the reason in the sidecar's log", in_log, 30)
    expect(
        condition(pod(), "Ready") != "True" and condition(pod(), "Initialized") != "True",
        f"it is ready: {pod()['status']}",
    )
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
    agent.expect_no_failure("nothing happened yet")
    agent.more(50)
    before = world.pod("upstream", "app=reports")["metadata"]["name"]
    world.kubectl("rollout", "restart", "deployment/reports", "-n", "upstream")
    world.wait_ready("upstream", "reports")
    gone = lambda: not world.node.ask_kubectl("get", "pod", before, "-n", "upstream").returncode == 0
    wait_until("the old upstream pod to be gone", gone, 60)
    agent.more(100)
    agent.expect_no_failure("the upstream restarted")
    expect(world.pod("upstream", "app=reports")["metadata"]["name"] != before, "it is the old upstream pod")


@case("b: a deleted agent finishes its last calls while the sidecar drains")
def last_calls(world: Cluster):
    pod = world.pod("agents", "app=python")
    name = pod["metadata"]["name"]
    farewells = world.arrivals.calls[CALENDAR, "farewell"]
    last = world.arrivals.calls[CALENDAR, "last"]
    world.kubectl("delete", "pod", name, "-n", "agents", "--wait=false")
    draining = lambda: fetch(f"http://{pod['status']['podIP']}:17090/readyz")
    wait_until("the agent's farewell", lambda: world.arrivals.calls[CALENDAR, "farewell"] > farewells, 60)
    farewell = world.arrivals.last[CALENDAR, "farewell"]["path"]
    failed = urllib.parse.parse_qs(urllib.parse.urlsplit(farewell).query)["failed"]
    expect(failed == ["0"], f"{failed[0]} of its last calls failed")
    made = world.arrivals.calls[CALENDAR, "last"] - last
    expect(made > 50, f"only {made} calls after it was told to stop")
    gone = lambda: world.node.ask_kubectl("get", "pod", name, "-n", "agents").returncode != 0
    # The grace period is 30 s: a sidecar that is killed at its end has not drained.
    wait_until("the pod to be gone", gone, 20)
    expect(draining()[0] == 0, "its sidecar still answers")
    world.say(f"         {made} calls after it was told to stop")
    Agent(world, world.pod("agents", "app=python")).more(20)
