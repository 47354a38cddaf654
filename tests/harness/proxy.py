"""The proxy under test, and the agent that calls through it, which is plain curl."""

import http.client
import json
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness.cases import expect
from harness.parts import WITHOUT_PROXIES, Run, fetch, free_ports, wait_until

# The path at which the listener `jwks` publishes the keys of the proxy's assertions.
JWKS_PATH = "/jwks"
# A JWT: three parts of base64url. None may appear in the proxy's logs, metrics or answers.
JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")


@dataclass
class Answer:
    """A response as curl received it."""

    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> dict:
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    def __str__(self):
        return f"{self.status} {self.headers.get('proxy-status', '')} {self.body[:400]}"


class Proxy:
    """A process of the binary with its own configuration.

    `settings` is YAML without `listen` and `log`.
    """

    def __init__(self, run: Run, binary: Path, name: str, settings: str, jwks_port: int | None = None):
        self.name = name
        self.outbound, self.metrics_port = free_ports(2)
        self.config = run.directory / f"{name}.yaml"
        listen = f'listen: {{ outbound: ["127.0.0.1:{self.outbound}"], metrics: ["127.0.0.1:{self.metrics_port}"]'
        listen += f", admin: unix://{run.directory}/{name}.sock"
        listen += f', jwks: ["127.0.0.1:{jwks_port}"] }}\n' if jwks_port else " }\n"
        self.config.write_text(listen + settings)
        self.base = f"http://127.0.0.1:{self.outbound}"
        self.part = run.start(f"proxy-{name}", [binary, "run", self.config])

    def wait_ready(self, seconds: float = 30) -> "Proxy":
        wait_until(f"readiness of proxy {self.name}", lambda: self.readiness()[0] == 200, seconds, self.part)
        return self

    def readiness(self) -> tuple[int, str]:
        return fetch(f"http://127.0.0.1:{self.metrics_port}/readyz")

    def call(self, url: str, *options: str, method: str = "GET") -> Answer:
        """Calls `url` by curl with this proxy as its HTTP proxy."""
        return curl("-x", self.base, "-X", method, *options, url)

    def has_logged(self, text: str) -> bool:
        return text in self.part.log.read_text(errors="replace")

    def metric(self, name: str, **labels: str) -> float:
        return series(fetch(f"http://127.0.0.1:{self.metrics_port}/metrics")[1], name, **labels)

    def stop(self):
        """Stops it and checks that log and metrics hold no credentials."""
        metrics = fetch(f"http://127.0.0.1:{self.metrics_port}/metrics")[1]
        self.part.stop()
        for where, text in {"log": self.part.log.read_text(errors="replace"), "metrics": metrics}.items():
            expect(not JWT.search(text), f"a token appears in the {where} of proxy {self.name}")
            expect("panicked at" not in text, f"proxy {self.name} panicked")


def series(metrics: str, name: str, **labels: str) -> float:
    """Sums the series of `idjag_proxy_<name>` that have these labels."""
    total = 0.0
    for line in metrics.splitlines():
        found = re.fullmatch(r"idjag_proxy_(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name:
            held = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if all(held.get(key) == value for key, value in labels.items()):
                total += float(found[3])
    return total


def curl(*options: str) -> Answer:
    done = subprocess.run(
        ["curl", "-sS", "-i", "--max-time", "30", *options], capture_output=True, text=True, env=WITHOUT_PROXIES
    )
    expect(done.returncode == 0, f"curl {' '.join(options)}: {done.stderr.strip()}")
    text = done.stdout.replace("\r\n", "\n")
    head, _, body = text.partition("\n\n")
    lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, body)


def expect_problem(answer: Answer, status: int, *words: str):
    """Expects a problem document (RFC 9457) with this status that contains the words.

    It comes with `Proxy-Status` and holds no credential.
    """
    expect(answer.status == status, f"expected {status}, got {answer}")
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("application/problem+json"), f"content-type is {kind!r}: {answer}")
    problem = answer.json()
    expect(
        problem.get("status") == status and problem.get("type") and problem.get("title"),
        f"not a problem document: {answer}",
    )
    expect("proxy-status" in answer.headers, f"no Proxy-Status: {answer}")
    for word in words:
        expect(word in answer.body, f"the answer lacks {word!r}: {answer}")
    expect(not JWT.search(answer.body + str(answer.headers)), f"a token appears in the answer: {answer}")


def expect_refusal(answer: Answer, code: str):
    """Expects the refusal that follows this OAuth error of the authorization server.

    The status is 403 where the agent or its user could ask for less or as somebody else, and 502
    where only an operator can change it.
    """
    expect_problem(answer, 502 if code in ("invalid_client", "unauthorized_client") else 403, code)


@dataclass
class Load:
    """A steady stream of requests on a few keep-alive connections.

    Every answer other than 200 is recorded as a failure.
    """

    proxy: Proxy
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    connections: int = 4
    pause: float = 0.02
    sent: int = 0
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self._connection, daemon=True) for _ in range(self.connections)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def expect_no_failure(self, during: str):
        with self.lock:
            failures, self.failures = self.failures, []
        expect(not failures, f"{len(failures)} of {self.sent} requests failed while {during}: {failures[:3]}")

    def more(self, count: int):
        """Waits until `count` more requests have been answered."""
        goal = self.sent + count
        wait_until(f"{count} more requests", lambda: self.sent >= goal, 60)

    def _connection(self):
        connection = None
        while not self.ended.is_set():
            failure = None
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.proxy.outbound, timeout=20)
                connection.request("GET", self.url, headers=self.headers)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    failure = f"{time.strftime('%H:%M:%S')} {answer.status} {body[:300].decode(errors='replace')}"
            except (OSError, http.client.HTTPException) as error:
                failure, connection = f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}", None
            with self.lock:
                self.sent += 1
                if failure:
                    self.failures.append(failure)
            time.sleep(self.pause)
