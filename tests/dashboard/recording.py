"""Prometheus' recording of a run as the input of `promtool test rules`, slowed down thirty times.

Scrapes are a second apart in the run, and half a minute in the tests, as in a cluster. Values that
are points in time are slowed down as well, so that a token of forty seconds becomes one of twenty
minutes. Everything else is what the binary exported.
"""

import re

from dashboard.prometheus import Prometheus
from dashboard.scenario import Scenario

SLOWDOWN = 30


class Recording:
    """Every series that the rules name, with one value per second of the scenario."""

    def __init__(self, prometheus: Prometheus, scenario: Scenario, rules: str):
        names = sorted(set(re.findall(r"idjag_proxy_\w+", rules)))
        self.length = int(scenario.marks["end"])
        self.series: list[tuple[dict, list[str]]] = []
        for name in names:
            for one in prometheus.query_range(f'{{__name__="{name}"}}', scenario.origin, scenario.origin + self.length):
                self.series.append((one["metric"], self._values(name, one["values"], scenario.origin)))

    def _values(self, name: str, values: list, origin: float) -> list[str]:
        seen = {round(at - origin): float(value) for at, value in values}
        texts, present = [], False
        for second in range(self.length + 1):
            if second in seen:
                texts.append(_number(_slowed(name, seen[second], origin)))
            else:
                texts.append("stale" if present else "_")
            present = second in seen
        return texts

    def without(self, namespaces: list[str]) -> "Recording":
        """Returns the recording of a Prometheus that does not scrape these namespaces."""
        other = object.__new__(Recording)
        other.length = self.length
        other.series = [(labels, values) for labels, values in self.series if labels.get("namespace") not in namespaces]
        return other

    def input_series(self) -> list[dict]:
        return [{"series": _series(labels), "values": " ".join(values)} for labels, values in self.series]

    def value(self, second: int, name: str, **labels: str) -> float | None:
        for own, values in self.series:
            if own["__name__"] == name and all(own.get(key) == value for key, value in labels.items()):
                return float(values[second]) if values[second] not in ("_", "stale") else None
        return None


def _slowed(name: str, value: float, origin: float) -> float:
    """Counts a point in time from the origin. The value 0 means that there is none."""
    if name.endswith("_timestamp_seconds") and value != 0:
        return (value - origin) * SLOWDOWN
    return value


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(value)


def _series(labels: dict) -> str:
    name = labels["__name__"]
    pairs = ", ".join(f'{key}="{value}"' for key, value in sorted(labels.items()) if key != "__name__")
    return f"{name}{{{pairs}}}"
