"""Runs the world, and asks of its Prometheus what the dashboard and the alerts ask."""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from dashboard import alerts, picture
from dashboard import story as stories
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
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--proxy", type=Path, default=REPOSITORY / "target/release/idjag-proxy")
    options.add_argument("--injector", type=Path, help="the binary with `injector`, if it is another")
    options.add_argument("--install", action="store_true", help="only fill the cache")
    options.add_argument("--picture", action="store_true", help="draw dashboard.svg beside this file anew")
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
        runner.failed("the binary", f"there is no {chosen.proxy}; cargo build --release, or --proxy")
        sys.exit(runner.finish())
    exit_on_signals()
    run = Run(Path(tempfile.mkdtemp(prefix="idjag-dashboard-")))
    finished = False
    try:
        whole(run, runner, chosen, tools)
        finished = True
    finally:
        keep = chosen.keep or not finished or runner.any_failed
        run.close(keep)
        if keep:
            say(f"logs, configurations and the recording: {run.directory}")
    sys.exit(runner.finish())


def whole(run: Run, runner: Runner, chosen, tools):
    dashboard = Dashboard(CHART / "dashboards/idjag-proxy.json")
    runner.run("every panel has its place, and says what it means", layout, dashboard)
    world = World(run, chosen.proxy.resolve(), (chosen.injector or chosen.proxy).resolve())
    try:
        missing = world.start_all()
        targets = [(one.namespace, one.pod, one.metrics) for one in [*world.sidecars, *world.injectors]]
        stories.start_load(world)
        prometheus = Prometheus(run, tools.prometheus / "usr/bin/prometheus", RULES, targets)
        story = stories.tell(world, prometheus, lambda: all_well(runner, dashboard, prometheus, missing))
        runner.run("the rules evaluate", rules_evaluate, prometheus, missing)
        recording = Recording(prometheus, story, "\n".join(rule.read_text() for rule in RULES))
        runner.run(
            "nothing fires while all is well", nothing_fires, tools.promtool, recording, run.directory, story, missing
        )
        expected = alerts.expectations(story, world)
        for alert in sorted(alert_names()):
            of_alert = [case for case in expected if case[0] == alert]
            runner.run(f"alert: {alert}", one_alert, tools.promtool, recording, run.directory, of_alert, missing)
        runner.run(
            "the annotation shows the one change of a configuration", annotations, dashboard, prometheus, story, world
        )
        drawing = picture.draw(dashboard, prometheus, story)
        (run.directory / "dashboard.svg").write_text(drawing)
        if chosen.picture:
            (HERE / "dashboard.svg").write_text(drawing)
    finally:
        world.close()


def all_well(runner: Runner, dashboard: Dashboard, prometheus: Prometheus, missing: str | None):
    """Asked while nothing is wrong: so an empty answer is a query that shows nobody anything."""
    runner.run("the variables find namespaces and pods", variables, dashboard, prometheus)
    for panel in dashboard.panels:
        runner.run(f"panel: {panel.row or 'is it fine?'}: {panel.title}", shows, panel, prometheus, missing)
    runner.run("the first row says that it is fine", fine, dashboard, prometheus)
    name = "the first row counts the injectors' alerts whatever namespace is chosen"
    runner.run(name, all_alerts, dashboard, prometheus, missing)


def layout(dashboard: Dashboard):
    problems = layout_problems(dashboard.definition)
    problems += [
        f"{panel.title}: no description" for panel in dashboard.panels if not panel.definition.get("description")
    ]
    expect(not problems, "\n".join(problems))


def variables(dashboard: Dashboard, prometheus: Prometheus):
    expect(set(dashboard.variables()) == {"namespace", "pod"}, f"there are {dashboard.variables()}")
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
        # Two healthy pods: a panel must not need trouble to show something.
        found = prometheus.query(substituted(expression, "calendar-agents", "calendar-bot-.*"))
        expect(found, f"nothing: {expression}")
        values = [one["value"][1] for one in found]
        numbers = [value for value in values if value not in ("NaN", "+Inf", "-Inf")]
        expect(numbers, f"no number but {values}: {expression}")


def fine(dashboard: Dashboard, prometheus: Prometheus):
    """Each stat is green, or blue where it is not judged, for the namespace in which all is well."""
    for panel in (one for one in dashboard.panels if one.kind == "stat" and one.title != "Alerts"):
        expression, _ = panel.queries[0]
        value = float(prometheus.query(substituted(expression, "calendar-agents"))[0]["value"][1])
        colour = picture.colour(panel, value)
        # The calendar's agents call a broken upstream now and then, and one user whom the server refuses.
        expect(
            colour in ("green", "blue") or panel.title in ("Calls that went wrong", "Exchanges that fail"),
            f"{panel.title}: {value} is {colour}",
        )


def all_alerts(dashboard: Dashboard, prometheus: Prometheus, missing: str | None):
    """An injector refuses pods, in a namespace that is never chosen: only those of sidecars are offered."""
    if missing:
        raise NotRun(missing)
    (panel,) = (one for one in dashboard.panels if one.title == "Alerts")
    firing = prometheus.query('ALERTS{alertstate="firing"}')
    found = {(one["metric"]["alertname"], one["metric"].get("namespace")) for one in firing}
    expect(found == {("IdjagInjectorRefusesPods", alerts.STAGING)}, f"firing are {found}")
    for namespace in ("calendar-agents", "research-agents|batch-agents", ".*"):
        (counted,) = prometheus.query(substituted(panel.queries[0][0], namespace))
        expect(counted["value"][1] == "1", f"{namespace}: {counted['value'][1]} are counted")


def annotations(dashboard: Dashboard, prometheus: Prometheus, story, world: World):
    """One is broken, which changes nothing, and then corrected."""
    expect(set(dashboard.annotations()) == {"Configuration"}, f"there are {dashboard.annotations()}")
    expression, text = dashboard.annotations()["Configuration"]
    end = story.origin + story.marks["end"]
    changed = world.calendar[1]
    for namespace in (".*", changed.namespace):
        found = prometheus.query_range(substituted(expression, namespace), story.origin, end)
        pods = [one["metric"].get("pod") for one in found]
        expect(pods == [changed.pod], f"{namespace}: it shows changes of {pods}")
        labels = re.findall(r"{{(\w+)}}", text)
        expect(all(label in found[0]["metric"] for label in labels), f"{text}: there are {found[0]['metric']}")
        first = float(found[0]["values"][0][0]) - story.origin
        corrected = story.marks["corrected"]
        expect(first >= int(corrected), f"it shows one at {first:.0f} s, and the change was at {corrected:.0f} s")
    none = prometheus.query_range(substituted(expression, "research-agents"), story.origin, end)
    expect(not none, f"another namespace has {none}")


def rules_evaluate(prometheus: Prometheus, missing: str | None):
    rules = prometheus.rules()
    expect(len(rules) == len(alert_names()), f"{len(rules)} rules are loaded, there are {len(alert_names())}")
    for rule in rules:
        expect(rule["health"] == "ok", f"{rule['name']}: {rule['health']}: {rule.get('lastError')}")
        for selector in re.findall(r"idjag_proxy_\w+(?:\{[^}]*\})?", rule["query"]):
            if missing and "injector" in selector:
                continue
            found = prometheus.query(f"last_over_time({selector}[10m])")
            expect(found, f"{rule['name']} asks for {selector}, which nobody exports")


def nothing_fires(promtool: Path, recording: Recording, directory: Path, story, missing: str | None):
    names = [name for name in sorted(alert_names()) if not (missing and name == "IdjagInjectorDown")]
    healthy = recording.without([alerts.STAGING])
    alerts.run(promtool, RULES, healthy, directory, alerts.quiet(names, [5, 15, 25, story.marks["healthy"]]))


def one_alert(promtool: Path, recording: Recording, directory: Path, expected: list, missing: str | None):
    if not expected and missing:
        raise NotRun(missing)
    expect(any(labels for _, _, labels in expected), "no case lets it fire")
    alerts.run(promtool, RULES, recording, directory, expected)
    alerts.labels_exist(RULES, expected)


def alert_names() -> list[str]:
    return re.findall(r"- alert: (\w+)", "\n".join(rule.read_text() for rule in RULES))


if __name__ == "__main__":
    main()
