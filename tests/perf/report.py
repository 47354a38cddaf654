"""The report: a table, a chart, and the goals."""

from dataclasses import dataclass
from pathlib import Path

from perf.chart import svg
from perf.measure import Sample, Spread, spread

OURS = "idjag-proxy"


@dataclass
class Measured:
    """A proxy's samples, one per round, and its resident memory in MiB."""

    name: str
    version: str
    samples: list[Sample]
    idle_mib: float
    busy_mib: float


def write(measured: list[Measured], method: str, build: str, left_out: list[str], directory: Path | None) -> str:
    """Returns the report as Markdown, and writes it and its chart to `directory`, if given."""
    by_name = {one.name: one for one in measured}
    lines = ["# What a request costs", "", f"{OURS} {by_name[OURS].version}: {build}.", f"{method}.", METHOD, ""]
    lines += [*table(by_name), "", "## Goals", "", *goals(by_name)]
    lines += [f"\nNot measured: {reason}." for reason in left_out]
    text = "\n".join(lines) + "\n"
    if directory:
        (directory / "results.md").write_text(text)
        note = f"Medians and quartiles over {len(measured[0].samples)} rounds; see results.md"
        (directory / "results.svg").write_text(svg(panels(by_name), note))
    return text


METHOD = """
The proxy has one worker and one core; the load and the upstream (nginx, a JSON answer of 375 bytes)
share the other. Connections are kept alive on both sides, there is no access log, and a bearer token
of 216 characters is added to each request: the peers have a static one, ours is obtained by
`client_credentials` and cached. The upstream compares the token for each request. A ratio compares
two figures of the same round; the table has medians with quartiles. CPU is user and system time of
all processes of the proxy. Memory is the peak resident memory while 1,000 connections send at once.

`tests/perf/run` writes this page and its chart."""


def ratio(of: Measured, to: Measured, figure: str) -> Spread:
    return spread([getattr(a, figure) / getattr(b, figure) for a, b in zip(of.samples, to.samples, strict=True)])


def table(by_name: dict[str, Measured]) -> list[str]:
    bases = [name for name in ("nginx", "Envoy") if name in by_name]
    head = ["proxy"] + [f"{what} / {base}" for what in ("requests per CPU s", "p50", "p99") for base in bases]
    head += ["requests/s / nginx"] if "nginx" in by_name else []
    head += ["RSS idle", "RSS 1,000 connections"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in by_name.values():
        cells = [f"{one.name} {one.version}"]
        for figure in ("per_cpu_second", "p50", "p99"):
            cells += [str(ratio(one, by_name[base], figure)) for base in bases]
        cells += [str(ratio(one, by_name["nginx"], "per_second"))] if "nginx" in by_name else []
        cells += [f"{one.idle_mib:.1f} MiB", f"{one.busy_mib:.1f} MiB"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def goals(by_name: dict[str, Measured]) -> list[str]:
    ours, rows = by_name[OURS], []
    if envoy := by_name.get("Envoy"):
        requests, p99 = ratio(ours, envoy, "per_cpu_second"), ratio(ours, envoy, "p99")
        rows.append(("requests per CPU second at least 2.5 x Envoy", requests, requests.median >= 2.5))
        rows.append(("p99 at most Envoy's", p99, p99.median <= 1))
    if nginx := by_name.get("nginx"):
        requests = ratio(ours, nginx, "per_cpu_second")
        rows.append(("requests per CPU second at least 0.9 x nginx", requests, requests.median >= 0.9))
    lines = [f"- {'met' if met else 'not met'}: {goal}: {measured}" for goal, measured, met in rows]
    for goal, limit, mib in [("RSS idle", 15, ours.idle_mib), ("RSS with 1,000 connections", 30, ours.busy_mib)]:
        lines.append(f"- {'met' if mib <= limit else 'not met'}: {goal} at most {limit} MiB: {mib:.1f} MiB")
    return lines


def panels(by_name: dict[str, Measured]) -> list:
    base = by_name.get("nginx") or by_name[OURS]
    shown = []
    for title, remark, figure in [
        (f"Requests per CPU second, {base.name} = 1", "more is better", "per_cpu_second"),
        (f"p99 latency, {base.name} = 1", "less is better", "p99"),
    ]:
        spreads = {one.name: ratio(one, base, figure) for one in by_name.values()}
        bars = [(name, one.median, one.low, one.high, f"{one.median:.2f}") for name, one in spreads.items()]
        shown.append((title, remark, bars))
    memory = [(one.name, *[one.busy_mib] * 3, f"{one.busy_mib:.0f} MiB") for one in by_name.values()]
    return [*shown, ("Resident memory with 1,000 connections", "less is better", memory)]
