"""A Prometheus of this run, and queries to it."""

import json
import urllib.parse
from pathlib import Path

from harness.cases import Failed
from harness.parts import Run, fetch, free_ports, wait_until

CONFIGURATION = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}
rule_files: [{rules}]
scrape_configs:
  - job_name: idjag-proxy
    static_configs:
{targets}
"""


class Prometheus:
    """A Prometheus that scrapes every second. `targets` are (namespace, pod, port)."""

    def __init__(self, run: Run, program: Path, rules: list[Path], targets: list[tuple[str, str, int]]):
        lines = [
            f'      - {{ targets: ["127.0.0.1:{port}"], labels: {{ namespace: {namespace}, pod: {pod} }} }}'
            for namespace, pod, port in targets
        ]
        files = ", ".join(json.dumps(str(rule)) for rule in rules)
        configuration = run.directory / "prometheus.yaml"
        configuration.write_text(CONFIGURATION.format(rules=files, targets="\n".join(lines)))
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.part = run.start(
            "prometheus",
            [
                program,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={run.directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
        )
        wait_until("Prometheus", lambda: fetch(f"{self.url}/-/ready")[0] == 200, 60, self.part)
        self.began = wait_until("a first scrape", self._first, 60, self.part)

    def scrapes(self) -> int:
        """Returns the number of scrapes of the target that has the fewest."""
        counts = self.query("count_over_time(up[1h])")
        return min((int(float(one["value"][1])) for one in counts), default=0)

    def wait_for(self, scrapes: int):
        """Waits until each target has been scraped `scrapes` times, once a second."""
        timeout = 2 * scrapes + 60
        wait_until(f"{scrapes} scrapes", lambda: self.scrapes() >= scrapes, timeout, self.part)

    def query(self, expression: str, at: float | None = None) -> list[dict]:
        parameters = {"query": expression} | ({"time": f"{at:.3f}"} if at else {})
        return self._ask("query", parameters)["result"]

    def query_range(self, expression: str, begin: float, end: float, step: float = 1) -> list[dict]:
        parameters = {"query": expression, "start": f"{begin:.3f}", "end": f"{end:.3f}", "step": str(step)}
        return self._ask("query_range", parameters)["result"]

    def rules(self) -> list[dict]:
        return [rule for group in self._ask("rules", {})["groups"] for rule in group["rules"]]

    def label_values(self, label: str, selector: str) -> list[str]:
        return self._ask(f"label/{label}/values", {"match[]": selector})

    def _first(self) -> float | None:
        found = self.query("min(min_over_time(timestamp(up)[1h:1s]))")
        return float(found[0]["value"][1]) if found else None

    def _ask(self, path: str, parameters: dict):
        status, body = fetch(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30)
        try:
            answer = json.loads(body)
        except ValueError:
            raise Failed(f"Prometheus answers {status} {body!r}") from None
        if answer["status"] != "success":
            raise Failed(f"{parameters.get('query', path)}\n{answer.get('error')}")
        return answer["data"]
