"""Alerting rules tested by `promtool test rules`, on series that are made up or were recorded."""

import json
import re
import subprocess
from pathlib import Path

from harness.cases import Failed

# An alert, the second at which it is evaluated, and the labels of each that must fire then.
Case = tuple[str, float, list[dict]]


def test_rules(
    promtool: Path, rules: list[Path], directory: Path, interval: int, series: list[dict], cases: list[Case]
):
    """Checks all cases in one run of promtool, whose output is reported on failure.

    `interval` is the number of seconds between two values of a series.
    """
    bare, severities = [], {}
    for rule in rules:
        text = without_annotations(rule)
        severities |= dict(re.findall(r"- alert: (\w+).*?severity: (\w+)", text, re.DOTALL))
        path = directory / f"bare-{rule.name}"
        path.write_text(text)
        bare.append(str(path))
    tests = [
        {
            "eval_time": f"{round(second)}s",
            "alertname": alert,
            "exp_alerts": [{"exp_labels": {"severity": severities[alert]} | labels} for labels in expected],
        }
        for alert, second, expected in cases
    ]
    step = f"{interval}s"
    group = {"interval": step, "input_series": series, "alert_rule_test": tests}
    path = directory / "rules-test.yaml"
    path.write_text(json.dumps({"rule_files": bare, "evaluation_interval": step, "tests": [group]}, indent=1))
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True)
    if done.returncode != 0:
        output = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise Failed("\n".join([str(path), *output[:60]]))


def without_annotations(rules: Path) -> str:
    """Returns the rules without annotations, so that alerts are compared by their labels alone.

    Annotations have values that differ from run to run, and promtool compares them literally.
    """
    lines, skipping = [], False
    for line in rules.read_text().splitlines():
        if line.strip() == "annotations:":
            skipping = True
        elif re.match(r"\s*- alert:", line):
            skipping = False
        if not skipping:
            lines.append(line)
    return "\n".join(lines) + "\n"
