"""Draws the dashboard from the data of a run, with panels where Grafana would place them.

The picture suits a light and a dark page.
"""

import math
import re
import time
from html import escape

from dashboard.panels import Dashboard, Panel, substituted
from dashboard.prometheus import Prometheus
from dashboard.scenario import Scenario

WIDTH, MARGIN, GAP = 1240, 16, 8
CELL_W = (WIDTH - 2 * MARGIN) / 24
STAT_H, GRAPH_H, ROW_H = 74, 132, 26
# The rows that the README's picture shows; the dashboard has more below them.
ROWS = ["", "Identity", "Tokens", "Exchanges", "Requests", "Errors"]
NAMESPACES = "calendar-agents|research-agents"
PALETTE = ["#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642", "#cca300"]
NAMED = {
    "green": "#3f9b4f",
    "yellow": "#d9a514",
    "red": "#d44a3a",
    "blue": "#3274d9",
    "orange": "#ef843c",
    "purple": "#a352cc",
}
STYLE = """
  svg { background: #f4f5f5 } text { font: 11px system-ui, sans-serif; fill: #24292e }
  .panel { fill: #ffffff; stroke: #e0e2e4 } .grid { stroke: #eceef0 }
  .title { font-weight: 600 } .row { font-weight: 600; font-size: 13px }
  .note { fill: #6a737d; font-size: 10px } .big { font-size: 24px; font-weight: 700; fill: #fff } .on { fill: #fff }
  .event { stroke: #d44a3a; stroke-dasharray: 2 3 }
  @media (prefers-color-scheme: dark) {
    svg { background: #111217 } text { fill: #d8d9da } .note { fill: #8e9297 }
    .panel { fill: #181b1f; stroke: #2c3235 } .grid { stroke: #25292e }
    .big, .on { fill: #fff }
  }"""


def draw(dashboard: Dashboard, prometheus: Prometheus, scenario: Scenario) -> str:
    drawing = _Drawing(prometheus, scenario)
    y = MARGIN + 58
    for row in ROWS:
        panels = [panel for panel in dashboard.panels if panel.row == row]
        height = GRAPH_H if row else STAT_H
        if row:
            drawing.parts.append(f'<text class="row" x="{MARGIN}" y="{y + 17}">{escape(row)}</text>')
            y += ROW_H
        for panel in panels:
            at = panel.definition["gridPos"]
            box = (MARGIN + at["x"] * CELL_W, y, at["w"] * CELL_W - GAP, height)
            drawing.stat(panel, *box) if panel.kind == "stat" else drawing.graph(panel, *box)
        y += height + GAP
    return drawing.finished(y + MARGIN, dashboard.definition["title"])


def colour(panel: Panel, value: float) -> str:
    """Returns the colour of a value according to the panel's thresholds."""
    steps = panel.definition["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]


class _Drawing:
    def __init__(self, prometheus: Prometheus, scenario: Scenario):
        self.prometheus, self.scenario = prometheus, scenario
        self.end = scenario.marks["end"]
        self.parts: list[str] = []

    def stat(self, panel: Panel, x: float, y: float, width: float, height: float):
        found = self.range(panel.queries[0][0])
        points = next(iter(found.values()), [])
        value = points[-1][1] if points else 0.0
        fill = NAMED[colour(panel, value)]
        text = (
            "none"
            if panel.unit == "s" and value <= 0 and "identity" in panel.title.lower()
            else _shown(value, panel.unit)
        )
        self.parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" rx="2" fill="{fill}"/>')
        if len(points) > 1:
            line = self.path(points, (x, y + height - 26, width, 24), _bounds([points], 0))
            area = f"{line} L{x + width:.1f},{y + height} L{x:.1f},{y + height} Z"
            self.parts.append(f'<path d="{area}" fill="#fff" opacity="0.18"/>')
        self.parts.append(f'<text class="on title" x="{x + 8:.1f}" y="{y + 16}">{escape(panel.title)}</text>')
        self.parts.append(
            f'<text class="big" x="{x + width / 2:.1f}" y="{y + 50}" text-anchor="middle">{escape(text)}</text>'
        )

    def graph(self, panel: Panel, x: float, y: float, width: float, height: float):
        series = self.series(panel)
        self.parts.append(f'<rect class="panel" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" rx="2"/>')
        self.parts.append(f'<text class="title" x="{x + 8:.1f}" y="{y + 15}">{escape(panel.title)}</text>')
        plot = (x + 54, y + 24, width - 64, height - 58)
        custom = panel.definition["fieldConfig"]["defaults"]["custom"]
        stacked = custom["stacking"]["mode"] == "normal"
        drawn = _stacked(series) if stacked else series
        if custom.get("scaleDistribution", {}).get("type") == "log":
            drawn = [(name, [(at, math.log10(value)) for at, value in points if value >= 1]) for name, points in drawn]
            drawn = [(name, points) for name, points in drawn if points]
            bounds = (0.0, math.ceil(max(value for _, points in drawn for _, value in points)))
            self.axes(panel, plot, bounds, lambda level: 10**level)
        else:
            bounds = _bounds([points for _, points in drawn], panel.definition["fieldConfig"]["defaults"].get("min"))
            self.axes(panel, plot, bounds, lambda level: level)
        for number, (name, points) in reversed(list(enumerate(drawn))):
            shade = _shade(panel, name, number)
            line = self.path(points, plot, bounds)
            if stacked:
                left, right = self.across(points[0][0], plot), self.across(points[-1][0], plot)
                base = plot[1] + plot[3]
                self.parts.append(
                    f'<path d="{line} L{right:.1f},{base:.1f} L{left:.1f},{base:.1f} Z" fill="{shade}" opacity="0.8"/>'
                )
            else:
                self.parts.append(f'<path d="{line}" fill="none" stroke="{shade}" stroke-width="1.4"/>')
        self.legend(panel, series, (x + 8, y + height - 8, width - 12))

    def axes(self, panel: Panel, plot: tuple, bounds: tuple, value_at):
        x, y, width, height = plot
        for share in (0, 0.5, 1):
            level = y + height * (1 - share)
            value = value_at(bounds[0] + (bounds[1] - bounds[0]) * share)
            self.parts.append(
                f'<line class="grid" x1="{x:.1f}" x2="{x + width:.1f}" y1="{level:.1f}" y2="{level:.1f}"/>'
            )
            self.note(x - 5, level + 3, _shown(value, panel.unit), "end")
        for second in range(0, int(self.end) + 1, 30):
            at = self.across(second, plot)
            self.note(at, y + height + 12, f"{second} s", "middle")
        at = self.across(self.scenario.marks["outage"], plot)
        self.parts.append(f'<line class="event" x1="{at:.1f}" x2="{at:.1f}" y1="{y:.1f}" y2="{y + height:.1f}"/>')

    def note(self, x: float, y: float, text: str, anchor: str):
        self.parts.append(f'<text class="note" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def legend(self, panel: Panel, series: list, place: tuple):
        """Draws as many names as fit on one line, those of the highest series first."""
        x, y, width = place
        order = sorted(enumerate(series), key=lambda one: -max((value for _, value in one[1][1]), default=0))
        used = 0.0
        for number, (name, _) in order:
            need = 14 + 5.4 * len(name)
            if used + need > width:
                break
            self.parts.append(
                f'<rect x="{x + used:.1f}" y="{y - 6}" width="8" height="3" fill="{_shade(panel, name, number)}"/>'
            )
            self.parts.append(f'<text class="note" x="{x + used + 11:.1f}" y="{y - 2}">{escape(name)}</text>')
            used += need + 6

    def series(self, panel: Panel) -> list[tuple[str, list[tuple[float, float]]]]:
        found = []
        for expression, legend in panel.queries:
            for labels, points in self.range(expression).items():
                name = legend
                for key, value in labels:
                    name = name.replace(f"{{{{{key}}}}}", value)
                found.append((_without_unset(name), points))
        return found

    def range(self, expression: str) -> dict[tuple, list[tuple[float, float]]]:
        """Returns points by labels, from the third second of the scenario on."""
        origin = self.scenario.origin
        found = self.prometheus.query_range(substituted(expression, NAMESPACES), origin + 3, origin + self.end)
        result = {}
        for one in found:
            labels = tuple(sorted((key, value) for key, value in one["metric"].items() if key != "__name__"))
            points = [(at - origin, float(value)) for at, value in one["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            if points:
                result[labels] = points
        return result

    def across(self, second: float, plot: tuple) -> float:
        return plot[0] + plot[2] * second / self.end

    def path(self, points: list, plot: tuple, bounds: tuple) -> str:
        """Returns the SVG path of a line, which is broken where points are over two seconds
        apart.
        """
        low, high = bounds
        texts, last = [], None
        for second, value in points:
            share = (value - low) / (high - low)
            letter = "L" if last is not None and second - last <= 2 else "M"
            texts.append(
                f"{letter}{self.across(second, plot):.1f},{plot[1] + plot[3] * (1 - min(max(share, 0), 1)):.1f}"
            )
            last = second
        return " ".join(texts)

    def finished(self, height: float, title: str) -> str:
        marks = self.scenario.marks
        outage, recovered, expired = (marks[name] for name in ("outage", "recovered", "identity expired"))
        stranded, renewed = marks["stranded"], marks["renewed"]
        failed, corrected = marks["upstreams failed"], marks["corrected"]
        identities = (
            f"From {outage:.0f} s (dotted line) to {recovered:.0f} s the server sso fails for research-bot, "
            f"whose SVID expires at {expired:.0f} s and is renewed at {renewed:.0f} s. "
            f"research-bot-2 has no Workload API from {stranded:.0f} s to {renewed:.0f} s."
        )
        upstreams = f"The upstreams of ledger and orders fail from {failed:.0f} s to {corrected:.0f} s."
        day = time.strftime("%Y-%m-%d", time.gmtime(self.scenario.origin))
        box, label = f"0 0 {WIDTH} {height:.0f}", "The Grafana dashboard"
        self.note(WIDTH - MARGIN, MARGIN + 14, f"drawn by tests/dashboard/run from its Prometheus, {day}", "end")
        self.note(MARGIN, MARGIN + 32, identities, "start")
        self.note(MARGIN, MARGIN + 46, upstreams, "start")
        head = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" aria-label="{label}">',
            f"<style>{STYLE}\n</style>",
            f'<text class="row" x="{MARGIN}" y="{MARGIN + 14}">{escape(title)}</text>',
        ]
        return "\n".join([*head, *self.parts, "</svg>", ""])


def _bounds(lines: list[list[tuple[float, float]]], least: float | None) -> tuple[float, float]:
    values = [value for points in lines for _, value in points]
    low = min([*values, 0.0]) if least is None else float(least)
    high = max([*values, low])
    return low, high if high > low else low + 1


def _stacked(series: list) -> list:
    """Returns the lines, each on top of those before it."""
    sums: dict[float, float] = {}
    found = []
    for name, points in series:
        for at, value in points:
            sums[at] = sums.get(at, 0) + value
        found.append((name, [(at, sums[at]) for at, _ in points]))
    return found


def _shade(panel: Panel, name: str, number: int) -> str:
    for override in panel.definition["fieldConfig"]["overrides"]:
        matcher = override["matcher"]
        named = matcher["id"] == "byName" and matcher["options"] == name
        if named or (matcher["id"] == "byRegexp" and re.fullmatch(matcher["options"], name)):
            return NAMED[override["properties"][0]["value"]["fixedColor"]]
    chosen = panel.definition["fieldConfig"]["defaults"]["color"]
    return NAMED[chosen["fixedColor"]] if chosen["mode"] == "fixed" else PALETTE[number % len(PALETTE)]


def _without_unset(name: str) -> str:
    """Removes labels that the series does not have, as Grafana does."""
    return re.sub(r"\s+", " ", re.sub(r"\{\{\w+\}\}", "", name)).strip()


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.0f} %" if value in (0, 1) or value >= 0.1 else f"{value * 100:.1f} %"
    if unit == "s":
        return _duration(value)
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB" if value >= 2**20 else f"{value / 1024:.1f} KiB"
    text = f"{value:.0f}" if value >= 20 or value == int(value) else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
    return f"{text}/s" if unit in ("reqps", "ops") else text


def _duration(value: float) -> str:
    if value < 0:
        return f"-{_duration(-value)}"
    if value == 0:
        return "0"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    return f"{value / 60:.3g} min" if value < 7200 else f"{value / 3600:.3g} h"
