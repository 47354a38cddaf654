"""A bit over a hundred seconds: all is well, then one thing after the other goes wrong, most of it is put right."""

import signal
import threading
import time
from dataclasses import dataclass, field

from dashboard.prometheus import Prometheus
from dashboard.world import SVID_LIFETIME, Sidecar, World
from harness.cases import Failed
from harness.parts import fetch, wait_until

RENEWALS = 'idjag_proxy_token_refreshes_total{outcome="success",server="sso"}'
LOST = "idjag_proxy_log_lines_dropped_total"

GOOD_POD = {"metadata": {"name": "agent"}, "spec": {"containers": [{"name": "agent", "image": "agent:1"}]}}
BAD_POD = {
    "metadata": {"name": "agent"},
    "spec": {"hostNetwork": True, "containers": [{"name": "agent", "image": "agent:1"}]},
}


@dataclass
class Story:
    """When things happened, in seconds since `origin`, which is when Prometheus had scraped everything once."""

    origin: float
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str):
        self.marks[name] = time.time() - self.origin


def start_load(world: World):
    """Agents at work: their own tokens, users' tokens, static keys, errors of upstreams, and a few who leave early."""
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
    world.call(world.calendar[1], "/telemetry.internal/broken", 2)
    world.call(world.calendar[1], "/calendar/v1/events", 5, bob)
    for paper in range(4):
        world.call(world.research, f"/papers-{paper}.internal/ok", 0.1)
    world.call(world.loud, "/ticks.internal/ok", 0.2)
    if world.injectors:
        world.review(world.injectors[0], GOOD_POD, 1)
        world.review(world.injectors[1], BAD_POD, 2)


def tell(world: World, prometheus: Prometheus, healthy) -> Story:
    """Runs it all; `healthy` is called while all is well."""
    story = Story(prometheus.began + 1)
    prometheus.wait_for(25)
    story.marks["identity ended"] = world.issuer.renew(SVID_LIFETIME) - story.origin
    prometheus.wait_for(34)
    story.mark("healthy")
    healthy()
    # Right after its four tokens were renewed, so that the next renewals are due in half of a lifetime.
    renewed = _scraped(world.research, RENEWALS)

    def again():
        return (now := _scraped(world.research, RENEWALS)) > renewed and now % 4 == 0

    wait_until("a renewal of all tokens", again, 60, world.research.part, every=0.05)
    world.sso.failing.add("research-bot")
    story.mark("outage")
    after(story, "outage", 4, prometheus)
    good = world.calendar[1].config.read_text()
    world.rewrite(world.calendar[1], lambda text: text.replace("workers: 1", "wokers: 1"))
    story.mark("broken")
    unrouted = threading.Event()
    world.call(world.calendar[0], "/paste.example/upload", 0.2, until=unrouted)
    world.call(world.calendar[0], "/archive.internal/ok", 0.2, until=unrouted)
    story.mark("unrouted")
    world.start(world.stranded)
    story.mark("stranded")
    _flood(world)
    story.mark("loud")
    after(story, "loud", 20, prometheus)
    unrouted.set()
    world.rewrite(world.calendar[1], lambda _: good)
    story.mark("corrected")
    after(story, "outage", 44, prometheus)
    for injector in world.injectors:
        injector.part.stop(signal.SIGKILL)
    story.mark("injectors killed")
    world.sso.failing.clear()
    story.mark("recovered")
    prometheus.wait_for(int(story.marks["identity ended"]) + 18)
    world.issuer.renew(3600)
    world.attest_stranded()
    story.mark("renewed")
    # So that the last rates hold nothing of the trouble.
    after(story, "renewed", 24, prometheus)
    story.mark("end")
    return story


def after(story: Story, mark: str, seconds: int, prometheus: Prometheus):
    prometheus.wait_for(round(story.marks[mark]) + seconds)


def _flood(world: World):
    """Calls until the log, which nobody reads, has lost lines."""
    enough = threading.Event()
    for _ in range(2):
        world.call(world.loud, "/nowhere.example/x", 0, until=enough)
    try:
        wait_until("lost log lines", lambda: _scraped(world.loud, LOST) > 100, 30, world.loud.part, every=0.05)
    finally:
        enough.set()


def _scraped(sidecar: Sidecar, series: str) -> float:
    status, body = fetch(f"http://127.0.0.1:{sidecar.metrics}/metrics")
    if status != 200:
        raise Failed(f"{sidecar.pod} answers its scrape with {status}")
    return next(float(line.split()[-1]) for line in body.splitlines() if line.startswith(series + " "))
