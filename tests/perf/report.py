"""The figures as a table, as a chart, and against the goals."""

from dataclasses import dataclass
from pathlib import Path

from perf.chart import svg
from perf.measure import Sample, Spread, spread

OURS = "idjag-proxy"


@dataclass
class Measured:
    """One proxy: its samples, one for each round, and its resident memory in MiB."""

    name: str
    version: str
    samples: list[Sample]
    idle_mib: float
    busy_mib: float


def write(measured: list[Measured], method: str, build: str, left_out: list[str], directory: Path | None) -> str:
    """The report as Markdown; written to `directory` with its chart, if one is given."""
    by_name = {one.name: one for one in measured}
    lines = ["# What a request costs", "", f"{OURS} {by_name[OURS].version}: {build}.", f"{method}.", METHOD, ""]
    lines += [*table(by_name), "", "## Goals", "", *goals(by_name)]
    lines += [f"\nNot measured: {reason}." for reason in left_out]
    text = "\n".join(lines) + "\n"
    if directory:
        (directory / "results.md").write_text(text)
        (directory / "results.svg").write_text(
            svg(panels(by_name), f"Medians and quartiles over {len(measured[0].samples)} rounds; see results.md")
        )
    return text


METHOD = """
The proxy has one worker and one core, the load and the upstream (nginx, a 375-byte JSON answer) the other. Keep-alive on both sides,
no access log, and a bearer token of 216 characters added to each request: a static one by the peers, one obtained by
`client_credentials` and cached by us. The upstream compares the token for each request. A ratio is of two figures of the same round;
medians with quartiles. CPU is user and system time of all processes of the proxy; memory is resident, the most seen with 1,000
connections sending at once.

`tests/perf/run` makes this page and its chart."""


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
        cells += [
            str(ratio(one, by_name[base], figure)) for figure in ("per_cpu_second", "p50", "p99") for base in bases
        ]
        cells += [str(ratio(one, by_name["nginx"], "per_second"))] if "nginx" in by_name else []
        cells += [f"{one.idle_mib:.1f} MiB", f"{one.busy_mib:.1f} MiB"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def goals(by_name: dict[str, Measured]) -> list[str]:
    ours, rows = by_name[OURS], []
    if "Envoy" in by_name:
        rows.append(
            (
                "requests per CPU second at least 2.5 x Envoy",
                ratio(ours, by_name["Envoy"], "per_cpu_second"),
                lambda x: x.median >= 2.5,
            )
        )
        rows.append(("p99 at most Envoy's", ratio(ours, by_name["Envoy"], "p99"), lambda x: x.median <= 1))
    if "nginx" in by_name:
        rows.append(
            (
                "requests per CPU second at least 0.9 x nginx",
                ratio(ours, by_name["nginx"], "per_cpu_second"),
                lambda x: x.median >= 0.9,
            )
        )
    lines = [f"- {'met' if met(seen) else 'not met'}: {goal}: {seen}" for goal, seen, met in rows]
    for goal, limit, seen in [("RSS idle", 15, ours.idle_mib), ("RSS with 1,000 connections", 30, ours.busy_mib)]:
        lines.append(f"- {'met' if seen <= limit else 'not met'}: {goal} at most {limit} MiB: {seen:.1f} MiB")
    return lines


def panels(by_name: dict[str, Measured]) -> list:
    base = by_name.get("nginx") or by_name[OURS]
    shown = []
    for title, remark, figure in [
        (f"Requests per CPU second, {base.name} = 1", "more is better", "per_cpu_second"),
        (f"p99 latency, {base.name} = 1", "less is better", "p99"),
    ]:
        spreads = {one.name: ratio(one, base, figure) for one in by_name.values()}
        shown.append(
            (
                title,
                remark,
                [(name, one.median, one.low, one.high, f"{one.median:.2f}") for name, one in spreads.items()],
            )
        )
    memory = [
        (one.name, one.busy_mib, one.busy_mib, one.busy_mib, f"{one.busy_mib:.0f} MiB") for one in by_name.values()
    ]
    return [*shown, ("Resident memory with 1,000 connections", "less is better", memory)]
