"""The dashboard as Grafana would ask: each panel's queries, with the variables in their place."""

import json
from dataclasses import dataclass
from pathlib import Path

RATE_INTERVAL = "15s"


@dataclass
class Panel:
    """One panel of the dashboard; `row` is the heading that it stands under."""

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
        """The queries that fill the drop-down lists."""
        found = self.definition["templating"]["list"]
        return {one["name"]: one["query"]["query"] for one in found if one["type"] == "query"}

    def annotations(self) -> dict[str, tuple[str, str]]:
        """The queries whose results stand as lines on every graph, with the text of a line."""
        found = self.definition["annotations"]["list"]
        return {one["name"]: (one["expr"], one["textFormat"]) for one in found if "expr" in one}


def substituted(expression: str, namespace: str = ".*", pod: str = ".*") -> str:
    values = {"$__rate_interval": RATE_INTERVAL, "$namespace": namespace, "$pod": pod}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def layout_problems(definition: dict) -> list[str]:
    """Panels that overlap, stand out of the grid, have no words for what they mean, or share an id."""
    problems, taken, ids = [], {}, set()
    for one in definition["panels"]:
        at, title = one["gridPos"], one["title"]
        if one["id"] in ids:
            problems.append(f"{title}: its id {one['id']} is another's")
        ids.add(one["id"])
        if at["x"] + at["w"] > 24:
            problems.append(f"{title}: wider than the grid")
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        over = {taken[cell] for cell in cells if cell in taken}
        if over:
            problems.append(f"{title}: over {over}")
        taken |= dict.fromkeys(cells, title)
    return problems
