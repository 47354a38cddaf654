"""What Prometheus recorded, as the input of `promtool test rules`: the same samples, played slower.

Scrapes are a second apart, and in the tests half a minute, as they are in a cluster: the run is slowed down thirty times.
What is a point in time is slowed down with it, so that a token which lived for forty seconds lives for twenty minutes.
Everything else is what the binary exported.
"""

import re

from dashboard.prometheus import Prometheus
from dashboard.story import Story

SLOWER = 30


class Recording:
    """Every series of the metrics that the rules name, one value a second from the story's origin."""

    def __init__(self, prometheus: Prometheus, story: Story, rules: str):
        names = sorted(set(re.findall(r"idjag_proxy_\w+", rules)))
        self.length = int(story.marks["end"])
        self.series: list[tuple[dict, list[str]]] = []
        for name in names:
            for one in prometheus.query_range(f'{{__name__="{name}"}}', story.origin, story.origin + self.length):
                self.series.append((one["metric"], self._values(name, one["values"], story.origin)))

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
        """What a Prometheus would hold that does not see these."""
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
    """A point in time is counted from the origin; 0 says that there is none."""
    if name.endswith("_timestamp_seconds") and value != 0:
        return (value - origin) * SLOWER
    return value


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(value)


def _series(labels: dict) -> str:
    name = labels["__name__"]
    pairs = ", ".join(f'{key}="{value}"' for key, value in sorted(labels.items()) if key != "__name__")
    return f"{name}{{{pairs}}}"
