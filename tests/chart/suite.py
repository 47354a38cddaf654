"""Checks the chart without a cluster."""

import argparse
import difflib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from chart import alert_cases, schema
from harness import REPOSITORY
from harness.cases import Failed, NotRun, Runner, expect, say
from harness.tools import KUBERNETES, InstallError, Tools, install, run_captured

HERE = Path(__file__).resolve().parent
CHART = REPOSITORY / "charts/idjag-proxy"
DASHBOARD = CHART / "dashboards/idjag-proxy.json"
RULES = sorted((CHART / "rules").glob("*.yaml"))
# The oldest version that the chart supports, that of the cluster suite, and the newest with
# schemas.
VERSIONS = ["1.29.0", KUBERNETES, "1.37.0"]
# The chart refuses an identity from files, which a sidecar cannot read
# (`bad/config-identity-files.yaml`).
NOT_FOR_SIDECARS = "files-identity.yaml"
MONITORING = ["PodMonitor", "ServiceMonitor", "PrometheusRule"]


class Suite:
    """The chosen Helm, the other tools, and the runner of the cases."""

    def __init__(self, runner: Runner, tools: Tools, options: argparse.Namespace):
        self.tools, self.proxy, self.update = tools, options.proxy.resolve(), options.update
        self.has_helm4 = options.helm == "4"
        self.helm = tools.helm4 if self.has_helm4 else tools.helm3
        self.runner = runner

    def template(self, *arguments, chart: Path = CHART, name: str = "idjag-proxy") -> tuple[int, str, str]:
        base = [self.helm, "template", name, chart, "--namespace", name, "--kube-version", KUBERNETES]
        return run_captured([*base, *arguments])

    def rendered(self, *arguments, chart: Path = CHART, name: str = "idjag-proxy") -> str:
        return succeed(self.template(*arguments, chart=chart, name=name))


def main():
    options = argparse.ArgumentParser(prog="tests/chart/run", description=__doc__)
    options.add_argument("--helm", choices=["3", "4"], default="3")
    options.add_argument("--update", action="store_true", help="rewrite golden/ and values.schema.json")
    options.add_argument("--install", action="store_true", help="only fill the cache")
    options.add_argument("--proxy", type=Path, default=REPOSITORY / "target/release/idjag-proxy")
    chosen = options.parse_args()
    names = [f"helm{chosen.helm}", "kubeconform", "schemas"]
    if chosen.helm == "3":
        names += ["unittest", "prometheus"]
    runner = Runner()
    try:
        tools = install(say, names)
    except InstallError as error:
        runner.failed("the tools cannot be installed", str(error))
        sys.exit(runner.finish())
    if chosen.install:
        return
    suite = Suite(runner, tools, chosen)
    if not suite.has_helm4:
        run_without_helm(suite)
    run_with_helm(suite)
    sys.exit(suite.runner.finish())


def run_without_helm(suite: Suite):
    """Runs the cases that would be the same with either Helm, so one of the two runs has them."""
    suite.runner.run("the schema of agents.config is the proxy's", proxy_schema, suite)
    suite.runner.run("alerts: promtool accepts them, and each has summary, description and action", alerts, suite)
    for name, function in alert_cases.CASES.items():
        suite.runner.run(f"alert: {name}", function, suite.tools.promtool, RULES)
    suite.runner.run("helm-unittest", unittest, suite)


def run_with_helm(suite: Suite):
    suite.runner.run("values.yaml: every value has a comment of its own", values_commented, suite)
    suite.runner.run("lint", lint, suite)
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        suite.runner.run(f"golden: {values.stem}", golden, suite, values)
        suite.runner.run(f"kubeconform: {values.stem}", conform, suite, values)
    for name in ("123", "1e3", "true"):
        suite.runner.run(f"kubeconform: every name is {name}", odd_names, suite, name)
    suite.runner.run("kubeconform: control: an unknown key is refused", control, suite)
    suite.runner.run("monitors are rendered where the cluster has their kinds", monitors, suite)
    suite.runner.run(
        "no certificate is rendered, nor anything else that the injector writes", nothing_of_the_injector, suite
    )
    suite.runner.run("an older Kubernetes is refused", old_kubernetes, suite)
    suite.runner.run(
        "deploy/post-renderer: another chart gets the sidecar, and its hooks as the README says", post_renderer, suite
    )
    suite.runner.run("the packaged chart renders the same and contains no tests", packaged, suite)
    for example in sorted((REPOSITORY / "config/examples").glob("*.yaml")):
        if example.name == NOT_FOR_SIDECARS:
            continue
        suite.runner.run(f"agents.config accepts {example.name}", accepts_example, suite, example)
        suite.runner.run(f"`check` treats the rendered {example.name} like the file", checks_example, suite, example)
    for values in sorted((HERE / "bad").glob("*.yaml")):
        suite.runner.run(f"refused: {values.stem}", refused, suite, values)


def lint(suite: Suite):
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        succeed(run_captured([suite.helm, "lint", "--strict", "--kube-version", KUBERNETES, "--values", values, CHART]))


def values_commented(_: Suite):
    """Expects a comment that begins with `--` above each value.

    It may be above a mapping that is documented as one value.
    """
    bare, covered, above = [], 99, ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            above = above or text
            continue
        depth = len(line) - len(line.lstrip())
        if text and depth <= covered:
            covered = depth if above.startswith("# -- ") else 99
            if covered == 99 and not text.endswith(":"):
                bare.append(text)
        above = ""
    expect(not bare, f"values without a comment: {bare}")


def golden(suite: Suite, values: Path):
    expected = HERE / "golden" / f"{values.stem.removesuffix('-values')}.yaml"
    text = in_order(suite.rendered("--values", values))
    if suite.update:
        expected.write_text(text)
    was = expected.read_text() if expected.exists() else ""
    if text != was:
        difference = difflib.unified_diff(
            was.splitlines(), text.splitlines(), expected.name, "rendered", lineterm="", n=1
        )
        raise Failed("\n".join([*list(difference)[:60], "if this is intended: tests/chart/run --update"]))


def in_order(text: str) -> str:
    """Returns the documents sorted, because each Helm has its own order.

    The dashboard is replaced by its file's name.
    """
    dashboard = "".join(f"    {line}\n" for line in DASHBOARD.read_text().splitlines())
    text = text.replace(dashboard, f"    (the content of {DASHBOARD.name})\n")
    documents = [one.strip() for one in f"\n{text}".split("\n---\n") if one.strip()]
    return "".join(f"---\n{one}\n" for one in sorted(documents))


def conform(suite: Suite, values: Path):
    conforms(suite, suite.rendered("--values", values))


def odd_names(suite: Suite, name: str):
    """Uses names everywhere that Kubernetes allows and YAML reads as another type."""
    image, kinds = {"registry": "", "repository": "x", "tag": name}, ("podMonitor", "serviceMonitor", "prometheusRule")
    values = {
        # A Service's name begins with a letter, so it cannot be a number.
        "fullnameOverride": name if name.isalpha() else "x",
        "images": {"pullSecrets": [name], "injector": image, "sidecar": image},
        "injector": {"priorityClassName": name, "nodeSelector": {"pool": name}, "podLabels": {"team": name}},
        "serviceAccount": {"annotations": {"role": name}},
        "agents": {"namespaces": [name], "configMapName": name, "config": {"routes": []}},
        "monitoring": {kind: {"create": "always", "labels": {"release": name}} for kind in kinds},
        "test": {"namespace": "agents"},
    }
    values["monitoring"]["podMonitor"]["namespaces"] = [name]
    values["monitoring"]["dashboard"] = {"namespace": name, "annotations": {"folder": name}}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(values, file)
        file.flush()
        conforms(suite, suite.rendered("--values", file.name, name=name))
        del values["fullnameOverride"], values["test"]
        file.seek(0)
        file.truncate()
        json.dump(values | {"nameOverride": name}, file)
        file.flush()
        conforms(suite, suite.rendered("--values", file.name, name=name))


def conforms(suite: Suite, text: str):
    """Expects that every Kubernetes version accepts the manifests."""
    own = f"{HERE}/schemas/{{{{.Group}}}}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json"
    locations = ["-schema-location", suite.tools.schema_location, "-schema-location", own]
    for version in VERSIONS:
        succeed(
            run_captured([suite.tools.kubeconform, "-strict", "-kubernetes-version", version, *locations], input=text)
        )


def control(suite: Suite):
    """Checks that kubeconform refuses a key that Kubernetes does not know."""
    wrong = "apiVersion: v1\nkind: Service\nmetadata: { name: x }\nspec: { port: 443 }\n"
    command = [suite.tools.kubeconform, "-strict", "-kubernetes-version", KUBERNETES]
    code, output, _ = run_captured([*command, "-schema-location", suite.tools.schema_location], input=wrong)
    expect(code != 0 and "port" in output, f"an unknown key is accepted: {output}")


def monitors(suite: Suite):
    """`auto` renders an object of the Prometheus Operator only where the cluster has its kind."""
    for kind in MONITORING:
        text = suite.rendered("--api-versions", f"monitoring.coreos.com/v1/{kind}")
        made = [other for other in MONITORING if f"\nkind: {other}\n" in text]
        expect(made == [kind], f"a cluster with {kind} gets {made}")
    text = suite.rendered()
    expect("monitoring.coreos.com" not in text, "a cluster without the operator gets objects of it")


def nothing_of_the_injector(suite: Suite):
    """Fields of the injector are not rendered, so that an upgrade by either Helm keeps them."""
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        text = suite.rendered("--values", values)
        expect("caBundle:" not in text, f"{values.name}: caBundle is rendered")
        for kind in ("Secret", "Lease"):
            found = [one for one in text.split("\n---\n") if f"\nkind: {kind}\n" in f"\n{one}\n"]
            expect(len(found) == 1, f"{values.name}: {len(found)} objects of kind {kind}")
            filled = re.search(r"^(data|stringData|spec):", found[0], re.MULTILINE)
            expect(filled is None, f"{values.name}: the {kind} is not empty")


def old_kubernetes(suite: Suite):
    code, _, errors = suite.template("--kube-version", "1.28.9")
    expect(code != 0 and "kubeVersion" in errors, f"1.28 is not refused: {errors}")
    succeed(suite.template("--kube-version", "v1.31.4-eks-2d5f260"))


def post_renderer(suite: Suite):
    needs_proxy(suite)
    if run_captured([suite.proxy, "inject", "--help"])[0] != 0:
        raise NotRun(f"{suite.proxy} lacks `inject`: it was built without the feature `kubernetes`")
    renderer = REPOSITORY / "deploy/post-renderer"
    with tempfile.TemporaryDirectory(prefix="idjag-post-renderer-") as directory:
        here = Path(directory)
        (here / "bin").mkdir()
        (here / "bin/idjag-proxy").symlink_to(suite.proxy)
        chart = here / "chart"
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: calendar\nversion: 1.0.0\n")
        jobs = [JOB.format("plain", ""), JOB.format("hook", "helm.sh/hook: pre-install")]
        (chart / "templates/jobs.yaml").write_text("\n---\n".join(jobs))
        homes = {f"HELM_{name}_HOME": str(here / name) for name in ("CACHE", "CONFIG", "DATA")}
        environment = os.environ | homes | {"PATH": f"{here / 'bin'}:{os.environ['PATH']}"}

        def helm(*words):
            return succeed(run_captured([suite.helm, *words], env=environment))

        if suite.has_helm4:
            helm("plugin", "install", renderer)
        chosen = "idjag-proxy" if suite.has_helm4 else renderer / "inject.sh"
        text = helm("template", "calendar", chart, "--post-renderer", chosen)
    rendered = [one for one in text.split("---\n") if "kind: Job" in one]
    documents = {re.search(r"^  name: (\w+)$", one, re.MULTILINE)[1]: one for one in rendered}
    injected = {name for name, one in documents.items() if "restartPolicy: Always" in one}
    expect(set(documents) == {"plain", "hook"}, f"the documents are {set(documents)}")
    expect(
        injected == ({"plain", "hook"} if suite.has_helm4 else {"plain"}), f"the sidecar was injected into {injected}"
    )


JOB = """apiVersion: batch/v1
kind: Job
metadata:
  name: {}
  annotations: {{ {} }}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{{ name: agent, image: "agent:1" }}]
"""


def packaged(suite: Suite):
    with tempfile.TemporaryDirectory(prefix="idjag-chart-") as directory:
        succeed(run_captured([suite.helm, "package", CHART, "--destination", directory]))
        archive = next(Path(directory).glob("idjag-proxy-*.tgz"))
        expect(suite.rendered(chart=archive) == suite.rendered(), "it renders differently")
        listed = succeed(run_captured(["tar", "tzf", archive])).split()
        checks = [name for name in listed if re.match(r"idjag-proxy/(ci|tests)/", name)]
        expect(not checks, f"it contains {checks}")


def accepts_example(suite: Suite, example: Path):
    render_example(suite, example)


def render_example(suite: Suite, example: Path) -> str:
    """Renders an example as `agents.config`, indented, so that comments and anchors are kept."""
    text = "".join(f"    {line}\n" for line in example.read_text().splitlines() if line.strip() != "---")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(f"agents:\n  namespaces: [agents]\n  config:\n{text}")
        file.flush()
        return suite.rendered("--values", file.name)


def checks_example(suite: Suite, example: Path):
    """The proxy must accept the rendered ConfigMap exactly where it accepts the example."""
    needs_proxy(suite)
    rendered = render_example(suite, example)
    document = next(one for one in rendered.split("\n---\n") if "\n  proxy.yaml: |\n" in one)
    body = document.split("\n  proxy.yaml: |\n")[1]
    lines = [line.removeprefix("    ") for line in body.splitlines()]
    # The file is next to the example because that has relative paths.
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=example.parent, prefix=".chart-") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        ours = run_captured([suite.proxy, "check", file.name])
    theirs = run_captured([suite.proxy, "check", example])
    codes = f"`check` exits with {ours[0]} for the rendered file, and with {theirs[0]} for the example"
    expect(ours[0] == theirs[0], f"{codes}:\n{ours[1]}{ours[2]}")


def refused(suite: Suite, values: Path):
    """Expects the words of the file's first line in Helm's message."""
    words = values.read_text().splitlines()[0].removeprefix("# says: ").split()
    code, _, errors = suite.template("--values", values)
    expect(code != 0, "it renders")
    missing = [word for word in words if word not in errors]
    expect(not missing, f"the message lacks {missing}:\n{errors}")


def unittest(suite: Suite):
    output = succeed(run_captured([suite.tools.helm_unittest, "--strict", "--file", "tests/*_test.yaml", CHART]))
    expect(re.search(r"Tests:\s+[1-9]\d* passed", output), f"no test ran:\n{output}")


def alerts(suite: Suite):
    succeed(run_captured([suite.tools.promtool, "check", "rules", *RULES]))
    text = "\n".join(file.read_text() for file in RULES)
    blocks = re.split(r"^ *- alert: ", text, flags=re.MULTILINE)[1:]
    names = [block.split("\n")[0] for block in blocks]
    for name, block in zip(names, blocks, strict=True):
        missing = [word for word in ("expr", "severity", "summary", "description", "action") if f"{word}:" not in block]
        expect(not missing, f"{name} lacks {missing}")
    values = json.loads((CHART / "values.schema.json").read_text())
    known = values["properties"]["monitoring"]["properties"]["prometheusRule"]["properties"]["without"]["items"]["enum"]
    expect(sorted(known) == sorted(names), f"values.schema.json has the alerts {known}, the rules have {names}")


def proxy_schema(suite: Suite):
    needs_proxy(suite)
    text = schema.expected(suite.proxy)
    if suite.update:
        schema.FILE.write_text(text)
    expect(schema.FILE.read_text() == text, "values.schema.json differs: tests/chart/run --update")


def needs_proxy(suite: Suite):
    if not suite.proxy.exists():
        raise NotRun(f"{suite.proxy} does not exist; use cargo build --release, or --proxy")


def succeed(result: tuple[int, str, str]) -> str:
    code, output, errors = result
    expect(code == 0, f"{output}\n{errors}".strip())
    return output


if __name__ == "__main__":
    main()
