"""Plays the scenario and evaluates the dashboard's queries and the alerts on it."""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from dashboard import alerts, picture, scenario
from dashboard.panels import Dashboard, Panel, layout_problems, substituted
from dashboard.prometheus import Prometheus
from dashboard.recording import Recording
from dashboard.world import World
from harness import REPOSITORY
from harness.cases import NotRun, Runner, expect, say
from harness.install import InstallError
from harness.parts import Run, exit_on_signals
from harness.tools import install

HERE = Path(__file__).resolve().parent
CHART = REPOSITORY / "charts/idjag-proxy"
RULES = sorted((CHART / "rules").glob("*.yaml"))
INJECTOR = "Injector"


def main():
    options = argparse.ArgumentParser(prog="tests/dashboard/run", description=__doc__)
    options.add_argument("--proxy", type=Path, default=REPOSITORY / "target/release/idjag-proxy")
    options.add_argument("--injector", type=Path, help="the binary with `injector`; default: that of --proxy")
    options.add_argument("--install", action="store_true", help="only fill the cache")
    options.add_argument("--picture", action="store_true", help="also redraw dashboard.svg in this directory")
    options.add_argument("--keep", action="store_true", help="keep logs, configurations and the recording")
    chosen = options.parse_args()
    runner = Runner()
    try:
        tools = install(say, ["prometheus"])
    except InstallError as error:
        runner.failed("Prometheus cannot be installed", str(error))
        sys.exit(runner.finish())
    if chosen.install:
        return
    if not chosen.proxy.exists():
        runner.failed("the binary", f"{chosen.proxy} does not exist; use cargo build --release, or --proxy")
        sys.exit(runner.finish())
    exit_on_signals()
    run = Run(Path(tempfile.mkdtemp(prefix="idjag-dashboard-")))
    finished = False
    try:
        run_cases(run, runner, chosen, tools)
        finished = True
    finally:
        keep = chosen.keep or not finished or runner.any_failed
        run.close(keep)
        if keep:
            say(f"logs, configurations and the recording: {run.directory}")
    sys.exit(runner.finish())


def run_cases(run: Run, runner: Runner, chosen, tools):
    dashboard = Dashboard(CHART / "dashboards/idjag-proxy.json")
    runner.run("every panel has its place and a description", layout, dashboard)
    world = World(run, chosen.proxy.resolve(), (chosen.injector or chosen.proxy).resolve())
    try:
        missing = world.start_all()
        targets = [(one.namespace, one.pod, one.metrics) for one in [*world.sidecars, *world.injectors]]
        scenario.start_load(world)
        prometheus = Prometheus(run, tools.prometheus / "usr/bin/prometheus", RULES, targets)
        played = scenario.play(world, prometheus, lambda: while_healthy(runner, dashboard, prometheus, missing))
        runner.run("the rules evaluate", rules_evaluate, prometheus, missing)
        recording = Recording(prometheus, played, "\n".join(rule.read_text() for rule in RULES))
        runner.run(
            "nothing fires while everything is healthy",
            nothing_fires,
            tools.promtool,
            recording,
            run.directory,
            played,
            missing,
        )
        expected = alerts.expectations(played, world)
        for alert in sorted(alert_names()):
            of_alert = [case for case in expected if case[0] == alert]
            runner.run(f"alert: {alert}", one_alert, tools.promtool, recording, run.directory, of_alert, missing)
        runner.run(
            "the annotation shows the one change of a configuration", annotations, dashboard, prometheus, played, world
        )
        drawing = picture.draw(dashboard, prometheus, played)
        (run.directory / "dashboard.svg").write_text(drawing)
        if chosen.picture:
            (HERE / "dashboard.svg").write_text(drawing)
    finally:
        world.close()


def while_healthy(runner: Runner, dashboard: Dashboard, prometheus: Prometheus, missing: str | None):
    """Evaluates the panels before the first failure, where no query may be empty."""
    runner.run("the variables find namespaces and pods", variables, dashboard, prometheus)
    for panel in dashboard.panels:
        runner.run(f"panel: {panel.row or 'first row'}: {panel.title}", shows, panel, prometheus, missing)
    runner.run("the first row shows that everything is fine", fine, dashboard, prometheus)
    name = "the first row counts the injectors' alerts whatever namespace is chosen"
    runner.run(name, all_alerts, dashboard, prometheus, missing)


def layout(dashboard: Dashboard):
    problems = layout_problems(dashboard.definition)
    problems += [
        f"{panel.title}: no description" for panel in dashboard.panels if not panel.definition.get("description")
    ]
    expect(not problems, "\n".join(problems))


def variables(dashboard: Dashboard, prometheus: Prometheus):
    expect(set(dashboard.variables()) == {"namespace", "pod"}, f"the variables are {dashboard.variables()}")
    for name, query in dashboard.variables().items():
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
        values = prometheus.label_values(label, substituted(selector))
        known = {"namespace": "calendar-agents", "pod": "calendar-bot-1"}[name]
        expect(known in values, f"{query} finds {values}")
        expect(not any("injector" in value for value in values), f"{query} finds injectors: {values}")


def shows(panel: Panel, prometheus: Prometheus, missing: str | None):
    if panel.row == INJECTOR and missing:
        raise NotRun(missing)
    for expression, _ in panel.queries:
        # These two pods are healthy: a panel must show something without a failure.
        found = prometheus.query(substituted(expression, "calendar-agents", "calendar-bot-.*"))
        expect(found, f"no data: {expression}")
        values = [one["value"][1] for one in found]
        numbers = [value for value in values if value not in ("NaN", "+Inf", "-Inf")]
        expect(numbers, f"only {values}, no number: {expression}")


def fine(dashboard: Dashboard, prometheus: Prometheus):
    """Expects each stat of a healthy namespace to be green, or blue if it has no thresholds.

    Its agents also call a broken upstream, and for a user whom the server refuses, but so rarely
    that the shares stay green.
    """
    for panel in (one for one in dashboard.panels if one.kind == "stat" and one.title != "Alerts"):
        expression, _ = panel.queries[0]
        value = float(prometheus.query(substituted(expression, "calendar-agents"))[0]["value"][1])
        colour = picture.colour(panel, value)
        expect(colour in ("green", "blue"), f"{panel.title}: {value} is {colour}")


def all_alerts(dashboard: Dashboard, prometheus: Prometheus, missing: str | None):
    """Expects the alert of an injector, although only sidecars' namespaces can be chosen."""
    if missing:
        raise NotRun(missing)
    (panel,) = (one for one in dashboard.panels if one.title == "Alerts")
    firing = prometheus.query('ALERTS{alertstate="firing"}')
    found = {(one["metric"]["alertname"], one["metric"].get("namespace")) for one in firing}
    expect(found == {("IdjagInjectorRefusesPods", alerts.STAGING)}, f"firing: {found}")
    for namespace in ("calendar-agents", "research-agents|batch-agents", ".*"):
        (counted,) = prometheus.query(substituted(panel.queries[0][0], namespace))
        expect(counted["value"][1] == "1", f"{namespace}: the panel counts {counted['value'][1]}")


def annotations(dashboard: Dashboard, prometheus: Prometheus, played: scenario.Scenario, world: World):
    """Expects one change: the broken configuration is not applied, the corrected one is."""
    expect(set(dashboard.annotations()) == {"Configuration"}, f"the annotations are {dashboard.annotations()}")
    expression, text = dashboard.annotations()["Configuration"]
    end = played.origin + played.marks["end"]
    changed = world.calendar[1]
    for namespace in (".*", changed.namespace):
        found = prometheus.query_range(substituted(expression, namespace), played.origin, end)
        pods = [one["metric"].get("pod") for one in found]
        expect(pods == [changed.pod], f"{namespace}: it shows changes of {pods}")
        labels = re.findall(r"{{(\w+)}}", text)
        expect(all(label in found[0]["metric"] for label in labels), f"{text}: the labels are {found[0]['metric']}")
        first = float(found[0]["values"][0][0]) - played.origin
        corrected = played.marks["corrected"]
        expect(
            first >= int(corrected), f"it shows a change at {first:.0f} s, before the correction at {corrected:.0f} s"
        )
    none = prometheus.query_range(substituted(expression, "research-agents"), played.origin, end)
    expect(not none, f"another namespace shows {none}")


def rules_evaluate(prometheus: Prometheus, missing: str | None):
    rules = prometheus.rules()
    expect(len(rules) == len(alert_names()), f"{len(rules)} of {len(alert_names())} rules are loaded")
    for rule in rules:
        expect(rule["health"] == "ok", f"{rule['name']}: {rule['health']}: {rule.get('lastError')}")
        for selector in re.findall(r"idjag_proxy_\w+(?:\{[^}]*\})?", rule["query"]):
            if missing and "injector" in selector:
                continue
            found = prometheus.query(f"last_over_time({selector}[10m])")
            expect(found, f"{rule['name']} queries {selector}, which is not exported")


def nothing_fires(
    promtool: Path, recording: Recording, directory: Path, played: scenario.Scenario, missing: str | None
):
    names = [name for name in sorted(alert_names()) if not (missing and name == "IdjagInjectorDown")]
    healthy = recording.without([alerts.STAGING])
    alerts.run(promtool, RULES, healthy, directory, alerts.silent(names, [5, 15, 25, played.marks["healthy"]]))


def one_alert(promtool: Path, recording: Recording, directory: Path, expected: list, missing: str | None):
    if not expected and missing:
        raise NotRun(missing)
    expect(any(labels for _, _, labels in expected), "the alert never fires")
    alerts.run(promtool, RULES, recording, directory, expected)
    alerts.labels_exist(RULES, expected)


def alert_names() -> list[str]:
    return re.findall(r"- alert: (\w+)", "\n".join(rule.read_text() for rule in RULES))


if __name__ == "__main__":
    main()
