"""The client that the MCP conformance suite runs.

Arguments: BINARY DIRECTORY MCP_URL. It finds the authorization server in the MCP server's metadata,
writes the proxy's configuration, and makes one MCP call. The proxy makes both token requests and
forwards the call.
"""

import base64
import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from harness.cases import expect
from harness.parts import Run
from harness.proxy import Proxy
from harness.servers import Handler, Server
from real import p256

CONFIG = """
authorization_servers:
  idp:
    issuer: {idp_issuer}
    client_id: {idp_client_id}
    client_auth: none
    endpoints: {{ token: "{idp_token_endpoint}", jwks: "{keys}" }}
  mcp:
    issuer: {issuer}
    client_id: {client_id}
    client_auth: {{ client_secret_basic: {{ secret_file: {secret_file} }} }}
routes:
  - match: {{ host: {host}, port: {port}, path: /mcp }}
    token:
      flow: {{ id_jag: {{ idp: idp, server: mcp }} }}
      subject: {{ header: {{ name: x-user-token, server: idp, type: id_token }} }}
      resource: {resource}
    upstream: {{ url: "http://{host}:{port}" }}
"""
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "shim", "version": "1"}},
}


def main():
    binary, directory, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    context = json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"])
    run = Run(directory / "mcp")
    try:
        keys = Keys(run, context["idp_id_token"])
        secret = run.directory / "client.secret"
        secret.write_text(context["client_secret"])
        where = urllib.parse.urlsplit(url)
        values = {"issuer": authorization_server(url), "keys": keys.url, "secret_file": secret, "resource": url}
        config = CONFIG.format(**context, **values, host=where.hostname, port=where.port)
        proxy = Proxy(run, binary, "mcp", config).wait_ready()
        call(proxy, url, context["idp_id_token"])
        proxy.stop()
    finally:
        run.close(keep=True)


def authorization_server(url: str) -> str:
    """Returns the issuer that the resource's metadata names (RFC 9728 §5.1)."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(INITIALIZE).encode(), HEADERS), timeout=10)
        raise SystemExit("the MCP server does not require a token")
    except urllib.error.HTTPError as error:
        metadata = re.search(r'resource_metadata="([^"]+)"', error.headers["www-authenticate"])[1]
    with urllib.request.urlopen(metadata, timeout=10) as answer:
        return json.load(answer)["authorization_servers"][0]


HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


def call(proxy: Proxy, url: str, id_token: str):
    headers = HEADERS | {"x-user-token": id_token}
    options = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    answer = proxy.call(url, *options, "--data", json.dumps(INITIALIZE), method="POST")
    expect(answer.status == 200 and "serverInfo" in answer.body, f"initialize through the proxy: {answer}")


class Keys(Server):
    """Serves the identity provider's key set.

    The suite's provider names one in its metadata but does not serve it, and the proxy accepts no
    user token that it cannot verify. So the key is recovered from the signature of the suite's ID
    token.
    """

    def __init__(self, run: Run, token: str):
        header, claims, signature = token.split(".")
        digest = hashlib.sha256(f"{header}.{claims}".encode()).digest()
        self.key = p256.recover(digest, base64.urlsafe_b64decode(signature + "=="))
        super().__init__(run, _KeysHandler)


class _KeysHandler(Handler):
    def do_GET(self):
        x, y = (base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode() for value in self.server.key)
        self.reply(200, {"keys": [{"kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256"}]})


if __name__ == "__main__":
    main()
