"""Alerts on made-up series: conditions that the scenario of tests/dashboard is too short for."""

import tempfile
from pathlib import Path

from harness.promtool import test_rules

MINUTE, STEP = 60, 30
POD = {"namespace": "agents", "pod": "calendar-1"}
INJECTOR = {"namespace": "idjag-proxy", "job": "injector"}


def refused_pods_with_backoff(promtool: Path, rules: list[Path]):
    """The alert stays while a controller retries, at pauses that double from 5 ms to 1000 s."""
    begins, ends = 10 * MINUTE, 6 * 60 * MINUTE
    attempts = _backoff(begins, ends)
    fires = [{"namespace": "idjag-proxy", "resource": "pods"}]
    # The attempts alternate between the replicas.
    series = [
        _refusals("injector-1", attempts[::2], ends + 120 * MINUTE),
        _refusals("injector-2", attempts[1::2], ends + 120 * MINUTE),
    ]
    cases = [("IdjagInjectorRefusesPods", begins - MINUTE, [])]
    cases += [("IdjagInjectorRefusesPods", second, fires) for second in range(begins + 2 * MINUTE, ends, MINUTE)]
    cases += [("IdjagInjectorRefusesPods", ends + 60 * MINUTE, [])]
    _play(promtool, rules, series, cases)


def one_refused_pod(promtool: Path, rules: list[Path]):
    """The refusal of a single `kubectl apply` needs no alert: kubectl showed the reason."""
    series = [_refusals("injector-1", [10 * MINUTE], 60 * MINUTE), _refusals("injector-2", [], 60 * MINUTE)]
    _play(promtool, rules, series, [("IdjagInjectorRefusesPods", at * MINUTE, []) for at in range(5, 60)])


def token_of_another_server(promtool: Path, rules: list[Path]):
    """Two tokens expire at the same time: one server fails to renew, the other was not asked."""
    expiry, renewals = "idjag_proxy_token_expiry_timestamp_seconds", "idjag_proxy_token_refreshes_total"
    routes = [POD | {"route": "events", "server": "sso"}, POD | {"route": "contacts", "server": "crm"}]
    series = [_series(expiry, labels, f"{60 * MINUTE}x120") for labels in routes]
    for server, failures in {"sso": "0x120", "crm": "0+1x120"}.items():
        series.append(_series(renewals, POD | {"server": server, "outcome": "success"}, "0x120"))
        series.append(_series(renewals, POD | {"server": server, "outcome": "failure"}, failures))
    cases = [("IdjagProxyTokenExpiresSoon", 45 * MINUTE, []), ("IdjagProxyTokenExpiresSoon", 55 * MINUTE, routes[1:])]
    _play(promtool, rules, series, cases)


def identity_where_one_is_needed(promtool: Path, rules: list[Path]):
    """Three proxies are not ready and have no SVID.

    One waits for an eager token and needs no SVID, one needs it, and one is too old to export the
    need.
    """
    series = []
    for pod, required in {"none-needed": "0x60", "one-needed": "1x60", "old": None}.items():
        labels = {"namespace": "agents", "pod": pod}
        for name in ("svid_expiry_timestamp_seconds", "ready"):
            series.append(_series(f"idjag_proxy_{name}", labels, "0x60"))
        series += [_series("idjag_proxy_identity_required", labels, required)] if required else []
    fires = [{"namespace": "agents", "pod": pod} for pod in ("one-needed", "old")]
    cases = [("IdjagProxyNoIdentity", 4 * MINUTE, []), ("IdjagProxyNoIdentity", 6 * MINUTE, fires)]
    _play(promtool, rules, series, cases)


def failing_upstreams(promtool: Path, rules: list[Path]):
    """Only the routes fire whose upstream fails a good share of the calls that have ended.

    Each route is `counted`: calls that were answered with 2xx, 5xx or a refusal, failures of the
    upstream, and calls that have ended, in each half minute.
    """
    counted = {
        "healthy": (20, 0, 0, 0, 20),
        "own-errors": (0, 20, 0, 0, 20),
        "refused": (0, 0, 20, 0, 20),
        "few-failures": (18, 2, 0, 2, 20),
        "down": (0, 20, 0, 20, 20),
        # The answers began long ago, and all of them break off.
        "streams": (0, 0, 0, 1, 1),
    }
    series = []
    for route, (answered, errors, refused, failures, ended) in counted.items():
        labels = POD | {"route": route}
        for label, count in {"2xx": answered, "5xx": errors, "refused": refused}.items():
            series.append(_series("idjag_proxy_requests_total", labels | {"class": label}, f"0+{count}x60"))
        broken = labels | {"reason": "upstream_broken"}
        series += [
            _series("idjag_proxy_upstream_failures_total", broken, f"0+{failures}x60"),
            _series("idjag_proxy_ended_total", labels | {"by": "upstream"}, f"0+{failures}x60"),
            _series("idjag_proxy_ended_total", labels | {"by": "whole"}, f"0+{ended - failures}x60"),
        ]
    fires = [{"namespace": "agents", "route": route} for route in ("down", "streams")]
    cases = [("IdjagProxyUpstreamFailing", MINUTE, []), ("IdjagProxyUpstreamFailing", 20 * MINUTE, fires)]
    _play(promtool, rules, series, cases)


def failures_for_several_reasons(promtool: Path, rules: list[Path]):
    """An upstream that fails in three ways, each of them rarely, fires once, and then no more."""
    labels = POD | {"route": "events"}
    series = [
        _series("idjag_proxy_upstream_failures_total", labels | {"reason": reason}, "0+2x40 80x40")
        for reason in ("upstream_broken", "upstream_timeout", "upstream_unreachable")
    ]
    series.append(_series("idjag_proxy_ended_total", labels | {"by": "upstream"}, "0+6x40 240x40"))
    series.append(_series("idjag_proxy_ended_total", labels | {"by": "whole"}, "0+14x80"))
    fires = [{"namespace": "agents", "route": "events"}]
    cases = [("IdjagProxyUpstreamFailing", 10 * MINUTE, fires), ("IdjagProxyUpstreamFailing", 30 * MINUTE, [])]
    _play(promtool, rules, series, cases)


def one_refusal_for_each_sidecar(promtool: Path, rules: list[Path]):
    """A server that refuses a sidecar makes one alert, however many routes use it."""
    series = [
        _series(
            "idjag_proxy_refused_total",
            POD | {"route": route, "reason": "authorization_misconfigured"},
            f"0+{count}x60",
        )
        for route, count in {"events": 1, "contacts": 3, "rooms": 0}.items()
    ]
    fires = [POD | {"reason": "authorization_misconfigured"}]
    cases = [("IdjagProxyRefusedByServer", MINUTE, []), ("IdjagProxyRefusedByServer", 10 * MINUTE, fires)]
    _play(promtool, rules, series, cases)


def _backoff(begins: float, ends: float) -> list[float]:
    attempts, at, wait = [], begins, 0.005
    while at < ends:
        attempts.append(at)
        at, wait = at + wait, min(2 * wait, 1000)
    return attempts


def _refusals(pod: str, at: list[float], length: int) -> dict:
    """Returns the counter of one replica, scraped each half minute."""
    values = " ".join(str(sum(1 for one in at if one <= second)) for second in range(0, length, STEP))
    labels = INJECTOR | {"pod": pod, "resource": "pods", "outcome": "refused"}
    return _series("idjag_proxy_injector_reviews_total", labels, values)


def _series(name: str, labels: dict, values: str) -> dict:
    pairs = ", ".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


def _play(promtool: Path, rules: list[Path], series: list[dict], cases: list):
    with tempfile.TemporaryDirectory(prefix="idjag-rules-") as directory:
        test_rules(promtool, rules, Path(directory), STEP, series, cases)


CASES = {
    "refused pods: it stays while their controller retries": refused_pods_with_backoff,
    "refused pods: it does not fire for one that is not retried": one_refused_pod,
    "a token that expires soon: it depends on the token's own server": token_of_another_server,
    "a failing upstream: its own errors, refusals and a few failures do not count": failing_upstreams,
    "a failing upstream: all reasons together count": failures_for_several_reasons,
    "refused by a server: once for each sidecar": one_refusal_for_each_sidecar,
    "no identity: it fires only where an identity is needed": identity_where_one_is_needed,
}
