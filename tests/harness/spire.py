"""A SPIRE server, its agent and its OIDC discovery provider, in the trust domain `example.org`."""

import json
import os
import subprocess
from pathlib import Path

from cryptography import x509

from harness.cases import Failed
from harness.parts import Part, Run, fetch, free_ports, wait_until

TRUST_DOMAIN = "example.org"

SERVER_CONF = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{server_port}"
  socket_path = "{directory}/s/api.sock"
  trust_domain = "example.org"
  data_dir = "{directory}/s"
  log_level = "DEBUG"
  ca_key_type = "ec-p256"
  jwt_key_type = "ec-p256"
  jwt_issuer = "http://127.0.0.1:{oidc_port}"
  ca_ttl = "2h"
  default_x509_svid_ttl = "1m"
  default_jwt_svid_ttl = "1m"
  agent_ttl = "1h"
  ratelimit {{ attestation = false signing = false }}
  experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{directory}/s/ds.sqlite3" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""

# The agent's keys are on disk so that the agent can be restarted: a join token works only once.
AGENT_CONF = """
agent {{
  data_dir = "{directory}/a"
  log_level = "DEBUG"
  server_address = "127.0.0.1"
  server_port = "{server_port}"
  socket_path = "{directory}/a/pub/api.sock"
  trust_bundle_path = "{directory}/bundle.pem"
  trust_domain = "example.org"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{directory}/a" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
{attestors}
}}
"""

OIDC_CONF = """
log_level = "debug"
domains = ["127.0.0.1", "localhost"]
insecure_addr = "127.0.0.1:{oidc_port}"
allow_insecure_scheme = true
set_key_use = true
jwt_issuer = "http://127.0.0.1:{oidc_port}"
server_api {{ address = "unix://{directory}/s/api.sock" poll_interval = "1s" }}
"""


class Spire:
    """SPIRE's processes on loopback.

    `attestors` are workload attestors in addition to the one for this machine's processes.
    """

    def __init__(self, run: Run, programs: Path, attestors: str = ""):
        self.run, self.programs, self.attestors = run, programs, attestors
        self.server_port, self.oidc_port = free_ports(2)
        self.agent_socket = run.directory / "a" / "pub" / "api.sock"
        self.jwks_url = f"http://127.0.0.1:{self.oidc_port}/keys"
        self.agent: Part | None = None

    def start(self):
        """Returns once the agent serves its Workload API."""
        values = {"directory": self.run.directory, "server_port": self.server_port, "oidc_port": self.oidc_port}
        values["attestors"] = self.attestors
        for name, text in {"server": SERVER_CONF, "agent": AGENT_CONF, "oidc": OIDC_CONF}.items():
            (self.run.directory / f"{name}.conf").write_text(text.format(**values))
        for directory in ("s", "a/pub"):
            (self.run.directory / directory).mkdir(parents=True)
        server = self.run.start("spire-server", [self.programs / "spire-server", "run", "-config", "server.conf"])
        wait_until("the SPIRE server", lambda: self._try_server("healthcheck"), 60, server)
        (self.run.directory / "bundle.pem").write_text(self.server("bundle", "show"))
        token = self.server(
            "token", "generate", "-spiffeID", f"spiffe://{TRUST_DOMAIN}/node", "-ttl", "600", "-output", "json"
        )
        self.start_agent("-joinToken", json.loads(token)["value"])
        oidc = self.run.start("spire-oidc", [self.programs / "oidc-discovery-provider", "-config", "oidc.conf"])
        wait_until("SPIRE's JWKS", lambda: '"kid"' in fetch(self.jwks_url)[1], 30, oidc)

    def start_agent(self, *options: str):
        self.agent = self.run.start(
            "spire-agent", [self.programs / "spire-agent", "run", "-config", "agent.conf", *options]
        )

        def healthy():
            return self._ok("spire-agent", "healthcheck", "-socketPath", str(self.agent_socket))

        wait_until("the SPIRE agent", healthy, 60, self.agent)

    def register(self, spiffe_id: str, program: Path, x509_ttl: int = 60, jwt_ttl: int = 60):
        """Gives `spiffe_id` to processes of this user that run `program`. TTLs are in seconds."""
        selectors = [f"unix:uid:{os.getuid()}", f"unix:path:{os.path.realpath(program)}"]
        self.register_by(spiffe_id, selectors, x509_ttl, jwt_ttl)

    def register_by(self, spiffe_id: str, selectors: list[str], x509_ttl: int = 60, jwt_ttl: int = 60):
        """Gives `spiffe_id` to workloads that match all selectors."""
        selected = [word for one in selectors for word in ("-selector", one)]
        lifetimes = ["-x509SVIDTTL", str(x509_ttl), "-jwtSVIDTTL", str(jwt_ttl)]
        parent = f"spiffe://{TRUST_DOMAIN}/node"
        self.server("entry", "create", "-parentID", parent, "-spiffeID", spiffe_id, *selected, *lifetimes)

    def jwt_svid(self, audience: str) -> str:
        """Fetches a JWT-SVID by the agent's own program, which must be registered."""
        output = self._fetch("jwt", "-audience", audience, "-output", "json")
        return json.loads(output)[0]["svids"][0]["svid"]

    def x509_authorities(self) -> dict:
        """Returns the authorities `active`, `prepared` and `old`, as far as they exist."""
        return json.loads(self.server("localauthority", "x509", "show", "-output", "json"))

    def bundle_of_workloads(self) -> set[str]:
        """Returns the ids of the X.509 authorities that workloads get from the agent now."""
        directory = self.run.directory / "fetched"
        directory.mkdir(exist_ok=True)
        self._fetch("x509", "-write", str(directory))
        roots = x509.load_pem_x509_certificates((directory / "bundle.0.pem").read_bytes())
        return {root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex() for root in roots}

    def server(self, *words: str) -> str:
        """Runs a command of `spire-server` and returns its output."""
        argv = [self.programs / "spire-server", *words, "-socketPath", self.run.directory / "s" / "api.sock"]
        done = subprocess.run([str(word) for word in argv], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"spire-server {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _fetch(self, kind: str, *words: str) -> str:
        argv = [self.programs / "spire-agent", "api", "fetch", kind, "-socketPath", self.agent_socket, *words]
        done = subprocess.run([str(word) for word in argv], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"spire-agent api fetch {kind}: {done.stdout}{done.stderr}")
        return done.stdout

    def _try_server(self, *words: str) -> bool:
        return self._ok("spire-server", *words, "-socketPath", str(self.run.directory / "s" / "api.sock"))

    def _ok(self, program: str, *words: str) -> bool:
        return subprocess.run([str(self.programs / program), *words], capture_output=True).returncode == 0
