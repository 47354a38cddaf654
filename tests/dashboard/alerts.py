"""The expected alerts, checked by `promtool test rules` on what the binary exported."""

import re
from pathlib import Path

from dashboard.recording import SLOWDOWN, Recording
from dashboard.scenario import Scenario
from harness.cases import expect
from harness.promtool import test_rules

STAGING = "idjag-staging"


def expectations(scenario: Scenario, world) -> list[tuple[str, float, list[dict]]]:
    """Returns each alert with a second of the scenario and the labels of what fires then."""
    marks = scenario.marks
    research, stranded = _target(world.research), _target(world.stranded)
    loud, broken = _target(world.loud), _target(world.calendar[1])

    def refused(namespace):
        return {"namespace": namespace, "reason": "no_route"}

    rejected = {"namespace": "calendar-agents", "reason": "authorization_misconfigured"}
    failing = {"namespace": "research-agents", "server": "sso", "leg": "access", "outcome": "busy"}
    failing_upstreams = [{"namespace": "calendar-agents", "route": route} for route in ("ledger", "orders")]
    papers = [research | {"route": f"papers-{number}", "server": "sso"} for number in range(4)]
    found = [
        ("IdjagProxyExchangesFailing", marks["outage"] + 8, []),
        ("IdjagProxyExchangesFailing", marks["outage"] + 32, [failing]),
        ("IdjagProxyTokenExpiresSoon", marks["outage"] + 8, []),
        ("IdjagProxyTokenExpiresSoon", marks["outage"] + 30, papers),
        ("IdjagProxyConfigRefused", marks["broken"] + 10, [broken]),
        ("IdjagProxyConfigRefused", marks["corrected"] + 6, []),
        (
            "IdjagProxyRefusalsRising",
            marks["loud"] + 17,
            [refused("batch-agents"), refused("calendar-agents"), rejected],
        ),
        ("IdjagProxyRefusedByServer", marks["unrouted"], []),
        (
            "IdjagProxyRefusedByServer",
            marks["loud"] + 15,
            [_target(world.calendar[0]) | {"reason": "authorization_misconfigured"}],
        ),
        ("IdjagProxyUpstreamFailing", marks["upstreams failed"] + 3, []),
        ("IdjagProxyUpstreamFailing", marks["upstreams failed"] + 16, failing_upstreams),
        ("IdjagProxyUpstreamFailing", marks["corrected"] + 13, []),
        ("IdjagProxyLogLinesDropped", marks["loud"] + 3, [loud]),
        ("IdjagProxyNoIdentity", marks["stranded"] + 16, [stranded]),
        ("IdjagProxySvidExpiresSoon", marks["identity expired"] - 20, []),
        ("IdjagProxySvidExpiresSoon", marks["identity expired"] - 6, [research]),
        ("IdjagProxyNoIdentity", marks["identity expired"] + 14, [research, stranded]),
        ("IdjagProxyNoIdentity", marks["renewed"] + 15, []),
    ]
    if world.injectors:
        found += [
            ("IdjagInjectorDown", marks["healthy"], []),
            ("IdjagInjectorDown", marks["injectors killed"] + 9, [{}]),
            ("IdjagInjectorCertificateExpiresSoon", marks["healthy"], [{"namespace": STAGING}]),
            ("IdjagInjectorRefusesPods", marks["outage"] + 8, [{"namespace": STAGING, "resource": "pods"}]),
        ]
    return found


def run(
    promtool: Path, rules: list[Path], recording: Recording, directory: Path, cases: list[tuple[str, float, list[dict]]]
):
    """Checks the cases, whose seconds are slowed down like the recording."""
    slowed = [(alert, round(second) * SLOWDOWN, expected) for alert, second, expected in cases]
    test_rules(promtool, rules, directory, SLOWDOWN, recording.input_series(), slowed)


def silent(names: list[str], seconds: list[float]) -> list[tuple[str, float, list[dict]]]:
    return [(name, second, []) for name in names for second in seconds]


def labels_exist(rules: list[Path], cases: list[tuple[str, float, list[dict]]]):
    """Expects that annotations name only labels of their alert, since others render as nothing."""
    labels = {alert: {name for one in expected for name in one} for alert, _, expected in cases if expected}
    for rule in rules:
        for block in re.split(r"- alert: ", rule.read_text())[1:]:
            alert = block.split("\n")[0]
            named = set(re.findall(r"\$labels\.(\w+)", block))
            if alert in labels:
                expect(named <= labels[alert], f"{alert} names {named - labels[alert]}, which the alert does not have")


def _target(sidecar) -> dict:
    address = f"127.0.0.1:{sidecar.metrics}"
    return {"namespace": sidecar.namespace, "pod": sidecar.pod, "instance": address, "job": "idjag-proxy"}
