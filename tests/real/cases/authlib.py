"""Authlib as a strict receiver of ID-JAGs: what it accepts, and how its refusals are reported."""

import functools
import json
import sys
import time
from pathlib import Path

from authlib.oauth2.drafts import IDJAGGrant
from joserfc import jwt
from joserfc.jwk import ECKey

from harness import module_command
from harness.cases import case, expect
from harness.keycloak import AGENT, ASSERTION_ISSUER
from harness.parts import Part, fetch, free_ports, wait_until
from harness.proxy import JWKS_PATH, Proxy, curl, expect_refusal
from harness.servers import Issuer, Recorded, Relay
from real.world import World


class Receiver:
    """Authlib in a process of its own, with the users alice and the agent.

    It accepts assertions signed with `key`.
    """

    def __init__(self, world: World):
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ECKey.generate_key("P-256")
        self.key_file = world.run.directory / "receiver-assertion.pem"
        self.key_file.write_bytes(self.key.as_pem(private=True))
        jwks_url = f"http://127.0.0.1:{world.jwks_port}{JWKS_PATH}"
        argv = module_command(sys.executable, "real.authlib_receiver", str(self.port), ASSERTION_ISSUER, jwks_url)
        users = {"USERS": json.dumps(["alice", AGENT])}
        self.part: Part = world.run.start("authlib", argv, users)
        metadata = f"{self.url}/.well-known/oauth-authorization-server"
        wait_until("the Authlib receiver", lambda: fetch(metadata)[0] == 200, 30, self.part)
        self.issuer = Issuer(world.run)
        for client in ("calendar", "no-grant"):
            (world.run.directory / f"{client}.secret").write_text(f"{client}-secret")
        (world.run.directory / "wrong.secret").write_text("wrong")


@functools.cache
def receiver(world: World) -> Receiver:
    return Receiver(world)


HEAD = """
    identity:
      workload_api: { socket: unix://$socket }
      assertion: { issuer: $assertion_issuer, key_file: $key_file, kid: receiver-1 }
    authorization_servers:
      corp: { issuer: $corp, client_id: calendar-agent, client_auth: none }
    """
SERVER = """  {name}:
    issuer: {issuer}
    client_id: {client}
    client_auth: {{ client_secret_basic: {{ secret_file: {secret} }} }}
    endpoints: {{ token: {token} }}
"""
ROUTE = """  - match: {{ host: {name}.example.com, path: /api }}
    token: {{ flow: {{ self_issued: {{ server: {name}, grant: jwt_bearer }} }}, {subject}scopes: [{scopes}] }}
    upstream: {{ url: {upstream} }}
"""
ALICE = "subject: { header: { name: x-user-token, server: corp, type: id_token } }, "


def receiver_proxy(world: World, name: str, rows: list[dict], jwks: bool = True, key_file: Path | None = None) -> Proxy:
    """Starts a proxy with one server and one route for each row."""
    authlib = receiver(world)
    usual = {"issuer": authlib.url, "client": "calendar", "secret": "calendar.secret", "token": f"{authlib.url}/token"}
    usual |= {"subject": "", "scopes": "read, write", "upstream": authlib.url}
    rows = [usual | row for row in rows]
    servers = "".join(SERVER.format(**row) for row in rows)
    routes = "routes:\n" + "".join(ROUTE.format(**row) for row in rows)
    values = {
        "assertion_issuer": ASSERTION_ISSUER,
        "key_file": key_file or authlib.key_file,
        "corp": authlib.issuer.url,
    }
    head = "\n".join(line[4:] for line in HEAD.splitlines()).rstrip() + "\n"
    return world.proxy(name, head + servers + routes, jwks=jwks, **values).wait_ready()


@case("authlib: an ID-JAG issued by the proxy is redeemed, for the agent and for alice, with the scopes of the route")
def accepted(world: World):
    rows = [
        {"name": "own"},
        {"name": "alices", "subject": ALICE},
        {"name": "narrow", "subject": ALICE, "scopes": "read"},
    ]
    proxy = receiver_proxy(world, "authlib", rows)
    alice = ["-H", f"x-user-token: {receiver(world).issuer.id_token('alice', 'calendar-agent')}"]
    for host, options, subject, scope in [
        ("own", [], AGENT, "read write"),
        ("alices", alice, "alice", "read write"),
        ("narrow", alice, "alice", "read"),
    ]:
        answer = proxy.call(f"http://{host}.example.com/api", *options)
        expect(answer.status == 200, f"{host}: {answer}")
        seen = {"client_id": "calendar", "scope": scope, "sub": subject}
        expect(answer.json() == seen, f"{host}: the receiver's token has {answer.json()}, not {seen}")


@case("authlib: refusals that a configuration can cause are reported")
def refused_by_configuration(world: World):
    authlib = receiver(world)
    twice = Relay(world.run, f"{authlib.url}/token", times=2)
    rows = [
        {"name": "replayed", "token": twice.url, "code": "invalid_grant"},
        {"name": "slash", "issuer": f"{authlib.url}/", "code": "invalid_grant"},
        {"name": "unknown-user", "subject": ALICE, "code": "invalid_grant"},
        {"name": "excess", "scopes": "read, admin", "code": "invalid_scope"},
        {"name": "wrong-secret", "secret": "wrong.secret", "code": "invalid_client"},
        {"name": "no-grant", "client": "no-grant", "secret": "no-grant.secret", "code": "unauthorized_client"},
    ]
    proxy = receiver_proxy(world, "authlib-refused", rows)
    carol = ["-H", f"x-user-token: {authlib.issuer.id_token('carol', 'calendar-agent')}"]
    for row in rows:
        answer = proxy.call(f"http://{row['name']}.example.com/api", *(carol if "subject" in row else []))
        expect_refusal(answer, row["code"])
        expect("jti replay" not in answer.body, f"the receiver's error description reached the agent: {answer}")
    expect([status for status, _ in twice.answers] == [200, 400], f"the relay's answers: {twice.answers}")
    wait_until("the receiver's error description in the log", lambda: proxy.has_logged("jti replay"), 5)

    # A second proxy has the same issuer and key id with another key. The receiver reads the keys
    # that the first proxy publishes.
    other = world.run.directory / "other-assertion.pem"
    other.write_bytes(ECKey.generate_key("P-256").as_pem(private=True))
    forger = receiver_proxy(world, "authlib-other-key", [{"name": "forged"}], jwks=False, key_file=other)
    expect_refusal(forger.call("http://forged.example.com/api"), "invalid_grant")


@case("authlib: recorded refusals of assertions that the proxy never makes are reported")
def refused_as_recorded(world: World):
    """Authlib signs bad assertions and refuses them; its answers are then replayed to the proxy."""
    authlib = receiver(world)
    publishing = receiver_proxy(world, "authlib-keys", [{"name": "unused"}])
    recorded = {name: record(authlib, assertion) for name, assertion in bad_assertions(authlib).items()}
    recorded["more-scope-than-asserted"] = record(
        authlib, good_assertion(authlib, claims={"scope": "read"}), scope="read write"
    )
    codes = {name: "invalid_scope" if name == "more-scope-than-asserted" else "invalid_grant" for name in recorded}
    for name, (status, body) in recorded.items():
        expect(status == 400 and json.loads(body)["error"] == codes[name], f"{name}: Authlib answers {status} {body}")
    servers = {name: Recorded(world.run, status, body.encode()) for name, (status, body) in recorded.items()}
    publishing.part.stop()
    proxy = receiver_proxy(
        world, "authlib-recorded", [{"name": name, "token": server.url} for name, server in servers.items()]
    )
    for name, server in servers.items():
        for _ in range(2):
            expect_refusal(proxy.call(f"http://{name}.example.com/api"), codes[name])
        expect(
            server.asked == 1,
            f"{name}: a refusal is cached, yet two requests led to {server.asked} token requests",
        )
        expect(proxy.metric("token_cache_total", result="negative") > 0, "no negative entry in the metrics")


def good_assertion(authlib: Receiver, **changes) -> str:
    now = int(time.time())
    good = {
        "audience": authlib.url,
        "subject": "alice",
        "client_id": "calendar",
        "issued_at": now,
        "expires_at": now + 200,
    }
    return IDJAGGrant.sign(authlib.key, ASSERTION_ISSUER, alg="ES256", **good | changes)


def bad_assertions(authlib: Receiver) -> dict[str, str]:
    now = int(time.time())
    header, claims, signature = good_assertion(authlib).split(".")
    plain_type = jwt.encode({"alg": "ES256", "typ": "JWT"}, {"iss": ASSERTION_ISSUER, "sub": "alice"}, authlib.key)
    return {
        "other-client": good_assertion(authlib, client_id="another"),
        "expired": good_assertion(authlib, issued_at=now - 300, expires_at=now - 120),
        "confirmation": good_assertion(authlib, claims={"cnf": {"jkt": "x" * 43}}),
        "other-audience": good_assertion(authlib, audience="https://elsewhere.example"),
        "plain-type": plain_type,
        "garbage": "not-an-assertion",
        "broken-signature": f"{header}.{claims}.{'A' * len(signature)}",
    }


def record(authlib: Receiver, assertion: str, **more: str) -> tuple[int, str]:
    """Returns Authlib's answer to a token request that the proxy would not make."""
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion} | more
    options = [word for name, value in form.items() for word in ("--data-urlencode", f"{name}={value}")]
    answer = curl("-u", "calendar:calendar-secret", *options, f"{authlib.url}/token")
    return answer.status, answer.body
