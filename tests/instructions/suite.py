"""Counts the instructions that a request costs the proxy, and holds each scenario to its budget."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from counted import Counted
from credentials import Credentials
from peers import AuthorizationServer, Http1Agent, Http2Agent, Upstream, free_port, mutual_tls

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
BUDGET = HERE / "budget.toml"
WARM_UP, COUNTED = 200, 2000  # requests

CONFIGURATION = """
listen: {{ outbound: ["127.0.0.1:{port}"], metrics: ["127.0.0.1:{metrics}"] }}
workers: 1
log: {{ level: warn }}
drain: {{ idle: 1ms }}
identity: {{ files: {{ certificate: agent.pem, key: agent.key, bundle: bundle.pem }} }}
authorization_servers:
  sso:
    issuer: {issuer}
    client_id: agent
    client_auth: {{ client_secret_basic: {{ secret_file: secret }} }}
    endpoints: {{ token: {issuer}/token, jwks: {issuer}/jwks }}
tokens:
  own: {{ flow: {{ client_credentials: {{ server: sso }} }} }}
  delegated:
    flow: {{ token_exchange: {{ server: sso }} }}
    subject: {{ header: {{ name: x-user-token, server: sso, type: id_token, audience: [web] }} }}
routes:
  - {{ match: {{ host: own.example }}, token: own, upstream: {{ url: "http://127.0.0.1:{plain}" }} }}
  - {{ match: {{ host: delegated.example }}, token: delegated, upstream: {{ url: "http://127.0.0.1:{plain}" }} }}
  - match: {{ host: mtls.example }}
    token: own
    upstream:
      url: https://127.0.0.1:{secured}
      tls: {{ server: {{ spiffe_ids: ["{upstream_id}"] }}, client_certificate: svid }}
"""


@dataclass(frozen=True)
class Scenario:
    """One request, sent again and again on one connection. Without an upstream the proxy answers by itself."""

    name: str
    agent: type
    host: str
    upstream: Upstream | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class World:
    """The proxy's configuration and both of its ends."""

    def __init__(self, directory: Path):
        self.directory, self.port = directory, free_port()
        credentials = Credentials(directory)
        credentials.svid("agent")
        upstream_id = credentials.svid("upstream")
        server = AuthorizationServer(credentials.jwks())
        plain, secured = Upstream(), Upstream(mutual_tls(directory, "upstream"))
        (directory / "secret").write_text("secret")
        self.configuration = directory / "proxy.yaml"
        self.configuration.write_text(
            CONFIGURATION.format(
                port=self.port, metrics=free_port(), issuer=server.url, plain=plain.port, secured=secured.port,
                upstream_id=upstream_id,
            )
        )  # fmt: skip
        user = {"x-user-token": credentials.user_token(server.url, "web")}
        self.scenarios = [
            Scenario("hit over HTTP/1", Http1Agent, "own.example", plain),
            Scenario("hit over HTTP/2", Http2Agent, "own.example", plain),
            Scenario("delegated hit", Http1Agent, "delegated.example", plain, headers=user),
            Scenario("no route", Http1Agent, "nowhere.example", None, status=403),
            Scenario("mTLS out", Http1Agent, "mtls.example", secured),
        ]

    def count(self, binary: Path, scenario: Scenario, requests: int) -> int:
        """Instructions of a whole run with so many requests, from start to end."""
        name = f"{scenario.name.replace(' ', '-').replace('/', '')}-{requests}"
        proxy = Counted(binary, self.configuration, self.port, name)
        try:
            proxy.wait_until_started()
            agent = scenario.agent(self.port, scenario.host, scenario.headers)
            for _ in range(requests):
                call(proxy, agent, scenario)
            agent.socket.close()
            return proxy.stop()
        finally:
            proxy.kill()
            if scenario.upstream is not None:
                scenario.upstream.disconnect()


def call(proxy: Counted, agent, scenario: Scenario):
    """One request in lockstep: each end waits until the proxy has done all that it can, or reads and wake-ups would vary."""
    agent.send()
    if scenario.upstream is not None:
        head = scenario.upstream.receive()
        if "authorization: bearer ttt" not in head.lower():
            raise RuntimeError(f"the upstream received no token:\n{head}")
        proxy.wait_until_idle()
        scenario.upstream.answer()
    if (status := agent.receive()) != scenario.status:
        raise RuntimeError(f"the agent received {status} instead of {scenario.status}")
    proxy.wait_until_idle()


def per_request(world: World, binary: Path, scenario: Scenario) -> int:
    """The difference of two runs, so that start and end are not in it."""
    few = world.count(binary, scenario, WARM_UP)
    many = world.count(binary, scenario, WARM_UP + COUNTED)
    return round((many - few) / COUNTED)


def build() -> Path:
    """Compiles what build.toml describes. Dependencies are those of `release`, and so is the place where cargo puts the binary: what
    was there is put back."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    built, counted = target / "release/idjag-proxy", target / "instructions/idjag-proxy"
    before = counted.with_name("before")
    counted.parent.mkdir(parents=True, exist_ok=True)
    before.unlink(missing_ok=True)
    if built.exists():
        built.rename(before)
    started = time.monotonic()
    try:
        cargo = ["cargo", "build", "--quiet", "--release", "--locked", "--bin", "idjag-proxy", "--config", HERE / "build.toml"]
        subprocess.run(cargo, cwd=REPOSITORY, check=True)
        shutil.copy2(built, counted)
    finally:
        if before.exists():
            before.rename(built)
            # Nothing is renamed where both are links to one file.
            before.unlink(missing_ok=True)
    say(f"build: release, our crate with opt-level 3 and one codegen unit: {time.monotonic() - started:.0f} s")
    return counted


def judge(name: str, count: int, budget: int | None, tolerance: float) -> str:
    """Says what came out; returned is `failed` or `passed`."""
    if budget is None:
        say(f"FAILED   {name}: {count:,} instructions a request; budget.toml has no number for it")
        return "failed"
    change = f"{count:,} instructions a request, {count / budget - 1:+.1%} of {budget:,}"
    if count > budget * (1 + tolerance):
        say(f"FAILED   {name}: {change}")
        return "failed"
    hint = "; lower its budget (--update)" if count < budget * (1 - tolerance) else ""
    say(f"ok       {name}: {change}{hint}")
    return "passed"


def update(counts: dict[str, int]):
    """Writes `counts` over the numbers of the same names, and leaves the rest of the file alone."""
    lines = BUDGET.read_text().splitlines()
    places = {line.partition(" = ")[0].strip('"'): place for place, line in enumerate(lines)}
    for name, count in counts.items():
        line = f'"{name}" = {count}'
        if name in places:
            lines[places[name]] = line
        else:
            lines.append(line)
    BUDGET.write_text("\n".join(lines) + "\n")


def say(line: str):
    print(line, flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("scenario", nargs="*", help="only those whose names contain one of these")
    options.add_argument("--proxy", type=Path, help="count this binary instead of building one")
    options.add_argument("--update", action="store_true", help="write what is counted into budget.toml")
    options.add_argument("--keep", action="store_true", help="keep logs and callgrind's profiles")
    chosen = options.parse_args()
    budget = tomllib.loads(BUDGET.read_text())
    directory = Path(tempfile.mkdtemp(prefix="idjag-instructions-"))
    results, counts = {"passed": 0, "failed": 0, "skipped": 0}, {}
    try:
        binary = chosen.proxy.resolve() if chosen.proxy else build()
        world = World(directory)
        for scenario in world.scenarios:
            if chosen.scenario and not any(word in scenario.name for word in chosen.scenario):
                continue
            try:
                count = counts[scenario.name] = per_request(world, binary, scenario)
            except (RuntimeError, OSError) as error:
                say(f"FAILED   {scenario.name}: {error}")
                results["failed"] += 1
                continue
            if chosen.update:
                budget["instructions"][scenario.name] = count
            results[judge(scenario.name, count, budget["instructions"].get(scenario.name), budget["tolerance"])] += 1
    finally:
        if chosen.keep or results["failed"]:
            say(f"logs and profiles, for callgrind_annotate: {directory}")
        else:
            shutil.rmtree(directory)
    if chosen.update:
        update(counts)
    say(", ".join(f"{count} {what}" for what, count in results.items()))
    sys.exit(1 if results["failed"] else 0)


if __name__ == "__main__":
    main()
