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

from harness import REPOSITORY
from harness.cases import Failed, Runner, expect, say
from harness.install import InstallError, debian
from harness.parts import free_ports
from instructions.counted import Counted
from instructions.credentials import Credentials
from instructions.peers import AuthorizationServer, Http1Agent, Http2Agent, Upstream, mutual_tls

HERE = Path(__file__).resolve().parent
BUDGET = HERE / "budget.toml"
WARM_UP, COUNTED = 100, 1000  # requests

CONFIGURATION = """
listen: {{ outbound: ["127.0.0.1:{port}"], metrics: ["127.0.0.1:{metrics}"] }}
workers: 1
log: {{ level: warn }}
drain: {{ idle: 1ms }}
token_timeout: 5m
identity: {{ files: {{ certificate: agent.pem, key: agent.key, bundle: bundle.pem }} }}
authorization_servers:
  sso:
    issuer: {issuer}
    client_id: agent
    client_auth: {{ client_secret_basic: {{ secret_file: secret }} }}
    endpoints: {{ token: {issuer}/token, jwks: {issuer}/jwks }}
    timeouts: {{ connect: 5m, total: 5m }}
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
    timeouts: {{ connect: 5m }}
    upstream:
      url: https://127.0.0.1:{secured}
      tls: {{ server: {{ spiffe_ids: ["{upstream_id}"] }}, client_certificate: svid }}
"""


@dataclass(frozen=True)
class Scenario:
    """A request that is repeated on one connection.

    Without an upstream the proxy answers itself.
    """

    name: str
    agent: type
    host: str
    upstream: Upstream | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class World:
    """The proxy's configuration and its peers."""

    def __init__(self, directory: Path):
        self.port, self.metrics = free_ports(2)
        credentials = Credentials(directory)
        credentials.svid("agent")
        upstream_id = credentials.svid("upstream")
        server = AuthorizationServer(credentials.jwks())
        plain, secured = Upstream(), Upstream(mutual_tls(directory, "upstream"))
        (directory / "secret").write_text("secret")
        self.configuration = directory / "proxy.yaml"
        self.configuration.write_text(
            CONFIGURATION.format(
                port=self.port,
                metrics=self.metrics,
                issuer=server.url,
                plain=plain.port,
                secured=secured.port,
                upstream_id=upstream_id,
            )
        )
        user = {"x-user-token": credentials.user_token(server.url, "web")}
        self.scenarios = [
            Scenario("hit over HTTP/1", Http1Agent, "own.example", plain),
            Scenario("hit over HTTP/2", Http2Agent, "own.example", plain),
            Scenario("delegated hit", Http1Agent, "delegated.example", plain, headers=user),
            Scenario("no route", Http1Agent, "nowhere.example", None, status=403),
            Scenario("mTLS out", Http1Agent, "mtls.example", secured),
        ]

    def count(self, binary: Path, scenario: Scenario, requests: int, at_least: float) -> tuple[int, float]:
        """Counts the instructions of a whole run with this many requests, start and end
        included. Returns them and how many seconds the requests took: `at_least` this many,
        because the proxy is left idle until then.
        """
        name = f"{scenario.name.replace(' ', '-').replace('/', '')}-{requests}"
        proxy = Counted(binary, self.configuration, self.port, name)
        try:
            proxy.wait_until_started()
            proxy.wait_until_ready(self.metrics)
            started = time.monotonic()
            agent = scenario.agent(self.port, scenario.host, scenario.headers)
            for _ in range(requests):
                call(proxy, agent, scenario)
            time.sleep(max(0.0, at_least - (time.monotonic() - started)))
            took = time.monotonic() - started
            agent.socket.close()
            return proxy.stop(), took
        finally:
            proxy.kill()
            if scenario.upstream is not None:
                scenario.upstream.disconnect()


def call(proxy: Counted, agent, scenario: Scenario):
    """Sends one request. Each peer waits until the proxy is idle; otherwise wake-ups would vary."""
    agent.send()
    if scenario.upstream is not None:
        head = scenario.upstream.receive()
        expect("authorization: bearer ttt" in head.lower(), f"the upstream received no token:\n{head}")
        proxy.wait_until_idle()
        scenario.upstream.answer()
    status = agent.receive()
    expect(status == scenario.status, f"the agent received {status} instead of {scenario.status}")
    proxy.wait_until_idle()


def per_request(world: World, binary: Path, scenario: Scenario) -> int:
    """Returns the difference of two runs per request, without their start and end. Both take
    equally long, so that it contains no periodic work either, however busy the machine is.
    """
    many, took = world.count(binary, scenario, WARM_UP + COUNTED, at_least=0)
    few, _ = world.count(binary, scenario, WARM_UP, at_least=took)
    return round((many - few) / COUNTED)


def build() -> Path:
    """Compiles the build of build.toml and returns a copy of its binary.

    Cargo puts the binary where `release` has its own, which is restored.
    """
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    built, counted = target / "release/idjag-proxy", target / "instructions/idjag-proxy"
    before = counted.with_name("before")
    counted.parent.mkdir(parents=True, exist_ok=True)
    before.unlink(missing_ok=True)
    if built.exists():
        built.rename(before)
    started = time.monotonic()
    try:
        cargo = ["cargo", "build", "--quiet", "--release", "--locked", "--bin", "idjag-proxy"]
        # Incremental compilation would split our crate again.
        environment = os.environ | {"CARGO_INCREMENTAL": "0"}
        subprocess.run([*cargo, "--config", HERE / "build.toml"], cwd=REPOSITORY, env=environment, check=True)
        shutil.copy2(built, counted)
    finally:
        if before.exists():
            before.rename(built)
            # Where both are links to the same file, `rename` does nothing.
            before.unlink(missing_ok=True)
    say(f"build: release, our crate with opt-level 3 and one codegen unit: {time.monotonic() - started:.0f} s")
    return counted


def judge(count: int, budget: int | None, tolerance: float) -> str:
    """Expects the count to be within the budget, and compares the two in the remark."""
    if budget is None:
        raise Failed(f"{count:,} instructions per request; budget.toml has no number for it")
    change = f"{count:,} instructions per request, {count / budget - 1:+.1%} of {budget:,}"
    expect(count <= budget * (1 + tolerance), change)
    hint = "; lower its budget (--update)" if count < budget * (1 - tolerance) else ""
    return f"{change}{hint}"


def update(counts: dict[str, int]):
    """Writes the counts into budget.toml and keeps its other lines."""
    lines = BUDGET.read_text().splitlines()
    places = {line.partition(" = ")[0].strip('"'): place for place, line in enumerate(lines)}
    for name, count in counts.items():
        line = f'"{name}" = {count}'
        if name in places:
            lines[places[name]] = line
        else:
            lines.append(line)
    BUDGET.write_text("\n".join(lines) + "\n")


def main():
    options = argparse.ArgumentParser(prog="tests/instructions/run", description=__doc__)
    options.add_argument("scenario", nargs="*", help="only scenarios whose names contain one of these")
    options.add_argument("--proxy", type=Path, help="count this binary instead of building one")
    options.add_argument("--update", action="store_true", help="write the counts into budget.toml")
    options.add_argument("--keep", action="store_true", help="keep logs and callgrind's profiles")
    chosen = options.parse_args()
    runner, directory = Runner(), Path(tempfile.mkdtemp(prefix="idjag-instructions-"))
    try:
        debian("valgrind", "openssl")
        run_scenarios(runner, chosen, directory)
    except InstallError as error:
        runner.failed("valgrind and openssl cannot be installed", str(error))
    finally:
        if chosen.keep or runner.any_failed:
            say(f"logs and profiles, for callgrind_annotate: {directory}")
        else:
            shutil.rmtree(directory)
    sys.exit(runner.finish())


def run_scenarios(runner: Runner, chosen: argparse.Namespace, directory: Path):
    binary = chosen.proxy.resolve() if chosen.proxy else build()
    world, counts = World(directory), {}
    budget = tomllib.loads(BUDGET.read_text())

    def check(scenario: Scenario) -> str:
        count = counts[scenario.name] = per_request(world, binary, scenario)
        expected = count if chosen.update else budget["instructions"].get(scenario.name)
        return judge(count, expected, budget["tolerance"])

    for scenario in world.scenarios:
        if not chosen.scenario or any(word in scenario.name for word in chosen.scenario):
            runner.run(scenario.name, check, scenario)
    if chosen.update:
        update(counts)


if __name__ == "__main__":
    main()
