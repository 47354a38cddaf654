"""Configures and starts the proxies under comparison and their upstream.

All do the same: one worker, keep-alive on both sides, no access log, and a bearer token of the same
length added to each request.
"""

import http.server
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from harness.parts import free_ports

TOKEN = "t" * 216  # as long as a short JWT; the header line is about 240 bytes
HOST = "api.example.com"
BODY = json.dumps({"events": [{"id": number, "title": "weekly review"} for number in range(9)]}).ljust(375)
FILES = 16384  # open files: 1,000 connections and as many to the upstream


@dataclass
class Target:
    """A running proxy. It reported `version` itself."""

    name: str
    version: str
    port: int
    process: subprocess.Popen

    def pids(self) -> list[int]:
        """Returns the process and its descendants."""
        family, parents = [self.process.pid], {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        for pid in family:
            family += [child for child, parent in parents.items() if parent == pid]
        return family

    def cpu_seconds(self) -> float:
        """Returns the user and system time of all its processes so far."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Returns the resident memory of all its processes, with shared pages counted for each."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids())
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Bench:
    """A run's directory, its two cores, and its processes."""

    def __init__(self, directory: Path, load_core: int, proxy_core: int):
        self.directory, self.load_core, self.proxy_core = directory, load_core, proxy_core
        self.started: list[subprocess.Popen] = []
        (self.upstream_port,) = free_ports(1)

    def spawn(self, name: str, argv: list, core: int) -> subprocess.Popen:
        log = (self.directory / f"{name}.log").open("w")
        pinned = ["taskset", "-c", str(core), *map(str, argv)]
        process = subprocess.Popen(
            pinned, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, preexec_fn=_many_files
        )
        self.started.append(process)
        return process

    def close(self):
        for process in reversed(self.started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait(self, name: str, port: int, process: subprocess.Popen):
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (self.directory / f"{name}.log").read_text()[-2000:]
                    raise RuntimeError(f"{name} is not listening:\n{log}") from None
                time.sleep(0.05)

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path


def _many_files():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


NGINX = """
daemon off;
worker_processes 1;
error_log {name}.err;
pid {name}.pid;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {name}-t1; proxy_temp_path {name}-t2; fastcgi_temp_path {name}-t3;
  uwsgi_temp_path {name}-t4; scgi_temp_path {name}-t5;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  {http}
}}
"""
# The token is compared for each request: without it wrk counts the 401 as an error.
UPSTREAM = """server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
    default_type application/json;
    if ($http_authorization != "Bearer {token}") {{ return 401; }}
    return 200 '{body}'; }} }}"""
NGINX_PROXY = """upstream up {{
    server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 3600s; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
    proxy_pass http://up; proxy_http_version 1.1; proxy_buffering off;
    proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header Authorization "Bearer {token}"; }} }}"""


def start_upstream(bench: Bench):
    http = UPSTREAM.format(port=bench.upstream_port, token=TOKEN, body=BODY)
    config = bench.write("upstream.conf", NGINX.format(name="upstream", http=http))
    process = bench.spawn("upstream", [program("nginx"), "-p", bench.directory, "-c", config], bench.load_core)
    bench.wait("upstream", bench.upstream_port, process)


def start_nginx(bench: Bench) -> Target:
    (port,) = free_ports(1)
    http = NGINX_PROXY.format(port=port, upstream=bench.upstream_port, token=TOKEN)
    config = bench.write("nginx.conf", NGINX.format(name="nginx", http=http))
    process = bench.spawn("nginx", [program("nginx"), "-p", bench.directory, "-c", config], bench.proxy_core)
    bench.wait("nginx", port, process)
    version = subprocess.run([program("nginx"), "-v"], capture_output=True, text=True).stderr.split("/")[-1].split()[0]
    return Target("nginx", version, port, process)


HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  http-reuse always
frontend in
  bind 127.0.0.1:{port}
  http-request set-header Authorization "Bearer {token}"
  default_backend up
backend up
  server up 127.0.0.1:{upstream} pool-max-conn -1
"""


def start_haproxy(bench: Bench) -> Target:
    (port,) = free_ports(1)
    config = bench.write("haproxy.cfg", HAPROXY.format(port=port, token=TOKEN, upstream=bench.upstream_port))
    process = bench.spawn("haproxy", [program("haproxy"), "-db", "-f", config], bench.proxy_core)
    bench.wait("haproxy", port, process)
    version = subprocess.run([program("haproxy"), "-v"], capture_output=True, text=True).stdout.split()[2].split("-")[0]
    return Target("HAProxy", version, port, process)


TYPES = "type.googleapis.com/envoy.extensions"


def start_envoy(bench: Bench, envoy: Path) -> Target:
    (port,) = free_ports(1)
    config = bench.write("envoy.json", json.dumps(_envoy_bootstrap(port, bench.upstream_port)))
    argv = [envoy, "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    process = bench.spawn("envoy", argv, bench.proxy_core)
    bench.wait("envoy", port, process)
    version = subprocess.run([envoy, "--version"], capture_output=True, text=True).stdout
    version = re.search(r"/(\d+\.\d+\.\d+)", version)[1]
    return Target("Envoy", version, port, process)


def _envoy_bootstrap(port: int, upstream: int) -> dict:
    def address(number):
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    generic = {
        "@type": f"{TYPES}.http.injected_credentials.generic.v3.Generic",
        "credential": {"name": "token"},
        "header": "Authorization",
    }
    injector = {
        "@type": f"{TYPES}.filters.http.credential_injector.v3.CredentialInjector",
        "overwrite": True,
        "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": generic},
    }
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "generate_request_id": False,
        "http_filters": [
            {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
            {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}
            ]
        },
    }
    breakers = {"thresholds": [{"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}]}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}]
    cluster = {
        "name": "up",
        "circuit_breakers": breakers,
        "load_assignment": {"cluster_name": "up", "endpoints": endpoints},
    }
    listener = {
        "name": "in",
        "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    secret = {"name": "token", "generic_secret": {"secret": {"inline_string": f"Bearer {TOKEN}"}}}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster], "secrets": [secret]}}


IDJAG = """
listen: {{ outbound: ["127.0.0.1:{port}"], metrics: ["127.0.0.1:{metrics}"], admin: unix://{directory}/admin.sock }}
workers: 1
log: {{ level: warn }}
authorization_servers:
  sso:
    issuer: {issuer}
    client_id: bench
    client_auth: {{ client_secret_basic: {{ secret_file: bench.secret }} }}
    endpoints: {{ token: {issuer}/token }}
routes:
  - match: {{ host: {host} }}
    token: {{ flow: {{ client_credentials: {{ server: sso }} }} }}
    upstream: {{ url: http://127.0.0.1:{upstream} }}
"""


def start_idjag(bench: Bench, binary: Path) -> Target:
    port, metrics = free_ports(2)
    bench.write("bench.secret", "secret")
    values = {
        "port": port,
        "metrics": metrics,
        "issuer": start_token_endpoint(),
        "host": HOST,
        "upstream": bench.upstream_port,
    }
    config = bench.write("idjag.yaml", IDJAG.format(directory=bench.directory, **values))
    process = bench.spawn("idjag-proxy", [binary, "run", config], bench.proxy_core)
    bench.wait("idjag-proxy", port, process)
    version = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.split()[-1]
    return Target("idjag-proxy", version, port, process)


class _TokenEndpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        granted = form.get("grant_type") == ["client_credentials"]
        answer = (
            {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 86400}
            if granted
            else {"error": "unsupported_grant_type"}
        )
        data = json.dumps(answer).encode()
        self.send_response(200 if granted else 400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def start_token_endpoint() -> str:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _TokenEndpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def program(name: str) -> str:
    """Finds a program, also in /usr/sbin, where Debian has servers and which may not be on PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed (Debian: nginx-light, haproxy, wrk)")
    return found
