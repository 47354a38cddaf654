"""The panels of the dashboard, with the queries that Grafana would send."""

import json
from dataclasses import dataclass
from pathlib import Path

RATE_INTERVAL = "15s"


@dataclass
class Panel:
    """A panel of the dashboard. `row` is the heading above it."""

    row: str
    title: str
    kind: str
    unit: str
    queries: list[tuple[str, str]]
    definition: dict


class Dashboard:
    def __init__(self, path: Path):
        self.definition = json.loads(path.read_text())
        self.panels: list[Panel] = []
        row = ""
        for one in self.definition["panels"]:
            if one["type"] == "row":
                row = one["title"]
                continue
            queries = [(target["expr"], target["legendFormat"]) for target in one["targets"]]
            unit = one["fieldConfig"]["defaults"]["unit"]
            self.panels.append(Panel(row, one["title"], one["type"], unit, queries, one))

    def variables(self) -> dict[str, str]:
        """Returns the queries that fill the drop-down lists, by variable."""
        found = self.definition["templating"]["list"]
        return {one["name"]: one["query"]["query"] for one in found if one["type"] == "query"}

    def annotations(self) -> dict[str, tuple[str, str]]:
        """Returns the queries whose results are drawn as lines on every graph, and the lines'
        text.
        """
        found = self.definition["annotations"]["list"]
        return {one["name"]: (one["expr"], one["textFormat"]) for one in found if "expr" in one}


def substituted(expression: str, namespace: str = ".*", pod: str = ".*") -> str:
    values = {"$__rate_interval": RATE_INTERVAL, "$namespace": namespace, "$pod": pod}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def layout_problems(definition: dict) -> list[str]:
    """Finds panels that overlap, leave the grid, or share an id."""
    problems, taken, ids = [], {}, set()
    for one in definition["panels"]:
        at, title = one["gridPos"], one["title"]
        if one["id"] in ids:
            problems.append(f"{title}: the id {one['id']} is taken")
        ids.add(one["id"])
        if at["x"] + at["w"] > 24:
            problems.append(f"{title}: leaves the grid")
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        over = {taken[cell] for cell in cells if cell in taken}
        if over:
            problems.append(f"{title}: overlaps {over}")
        taken |= dict.fromkeys(cells, title)
    return problems
