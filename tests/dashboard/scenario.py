"""The scenario: a healthy start, then one failure after another, most of which are mended."""

import signal
import threading
import time
from dataclasses import dataclass, field

from dashboard.prometheus import Prometheus
from dashboard.world import SVID_LIFETIME, Sidecar, World
from harness.cases import Failed
from harness.parts import fetch, wait_until

RENEWALS = 'idjag_proxy_token_refreshes_total{outcome="success",server="sso"}'
DROPPED = "idjag_proxy_log_lines_dropped_total"

GOOD_POD = {"metadata": {"name": "agent"}, "spec": {"containers": [{"name": "agent", "image": "agent:1"}]}}
BAD_POD = {
    "metadata": {"name": "agent"},
    "spec": {"hostNetwork": True, "containers": [{"name": "agent", "image": "agent:1"}]},
}


@dataclass
class Scenario:
    """The times of events, in seconds since `origin`, by which everything was scraped once."""

    origin: float
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str):
        self.marks[name] = time.time() - self.origin


def start_load(world: World):
    """Starts the agents' calls.

    They use tokens of their own, users' tokens and static keys, see errors of upstreams, and
    sometimes disconnect early.
    """
    alice, bob = world.user("alice"), world.user("bob")
    for sidecar in world.calendar:
        world.call(sidecar, "/calendar/v1/rooms", 0.02)
        world.call(sidecar, "/calendar/v1/events", 0.03, alice)
        world.call(sidecar, "/travel/v1/trips", 0.1, alice)
        world.call(sidecar, "/reports.internal/ok", 0.05)
        world.call(sidecar, "/reports.internal/slow", 0.2)
        world.call(sidecar, "/inbox.internal/picky", 0.5)
        world.call(sidecar, "/search.internal/missing", 0.5)
        world.call(sidecar, "/telemetry.internal/ok", 0.25)
        world.call(sidecar, "/telemetry.internal/slow?leave", 2)
        world.call(sidecar, "/ledger.internal/ok", 0.2)
    world.call(world.calendar[1], "/telemetry.internal/broken", 2)
    world.call(world.calendar[1], "/calendar/v1/events", 5, bob)
    for paper in range(4):
        world.call(world.research, f"/papers-{paper}.internal/ok", 0.1)
    world.call(world.loud, "/ticks.internal/ok", 0.2)
    if world.injectors:
        world.review(world.injectors[0], GOOD_POD, 1)
        world.review(world.injectors[1], BAD_POD, 2)


def play(world: World, prometheus: Prometheus, healthy) -> Scenario:
    """Plays the scenario and calls `healthy` before the first failure."""
    scenario = Scenario(prometheus.began + 1)
    prometheus.wait_for(25)
    scenario.marks["identity expired"] = world.issuer.renew(SVID_LIFETIME) - scenario.origin
    prometheus.wait_for(34)
    scenario.mark("healthy")
    healthy()
    # Its four tokens have just been renewed, so the next renewals are due in half a lifetime.
    renewed = _scraped(world.research, RENEWALS)

    def again():
        return (now := _scraped(world.research, RENEWALS)) > renewed and now % 4 == 0

    wait_until("a renewal of all tokens", again, 60, world.research.part, every=0.05)
    world.sso.failing.add("research-bot")
    scenario.mark("outage")
    after(scenario, "outage", 4, prometheus)
    good = world.calendar[1].config.read_text()
    world.rewrite(world.calendar[1], lambda text: text.replace("workers: 1", "wokers: 1"))
    scenario.mark("broken")
    unrouted = threading.Event()
    world.call(world.calendar[0], "/paste.example/upload", 0.2, until=unrouted)
    world.call(world.calendar[0], "/archive.internal/ok", 0.2, until=unrouted)
    scenario.mark("unrouted")
    world.call(world.calendar[1], "/orders.internal/ok", 0.2, until=unrouted)
    world.ledger.failing = True
    scenario.mark("upstreams failed")
    world.start(world.stranded)
    scenario.mark("stranded")
    _flood(world)
    scenario.mark("loud")
    after(scenario, "loud", 20, prometheus)
    unrouted.set()
    world.ledger.failing = False
    world.rewrite(world.calendar[1], lambda _: good)
    scenario.mark("corrected")
    after(scenario, "outage", 44, prometheus)
    for injector in world.injectors:
        injector.part.stop(signal.SIGKILL)
    scenario.mark("injectors killed")
    world.sso.failing.clear()
    scenario.mark("recovered")
    prometheus.wait_for(int(scenario.marks["identity expired"]) + 18)
    world.issuer.renew(3600)
    world.attest_stranded()
    scenario.mark("renewed")
    # By then the last rates contain none of the failures.
    after(scenario, "renewed", 24, prometheus)
    scenario.mark("end")
    return scenario


def after(scenario: Scenario, mark: str, seconds: int, prometheus: Prometheus):
    prometheus.wait_for(round(scenario.marks[mark]) + seconds)


def _flood(world: World):
    """Calls until log lines are dropped, because nothing reads the log."""
    enough = threading.Event()
    for _ in range(2):
        world.call(world.loud, "/nowhere.example/x", 0, until=enough)
    try:
        wait_until("dropped log lines", lambda: _scraped(world.loud, DROPPED) > 100, 30, world.loud.part, every=0.05)
    finally:
        enough.set()


def _scraped(sidecar: Sidecar, series: str) -> float:
    status, body = fetch(f"http://127.0.0.1:{sidecar.metrics}/metrics")
    if status != 200:
        raise Failed(f"{sidecar.pod} answers a scrape with {status}")
    return next(float(line.split()[-1]) for line in body.splitlines() if line.startswith(series + " "))
