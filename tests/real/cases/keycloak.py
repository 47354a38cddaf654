"""a and b: SPIRE issues the identity, Keycloak the token, and an upstream verifies it."""

import base64
import json
import textwrap
import urllib.error
import urllib.parse
import urllib.request
from functools import partial

from joserfc.jwk import ECKey

from harness.cases import case, expect
from harness.keycloak import AGENT, ALICE, ASSERTION_ISSUER
from harness.parts import wait_until
from harness.proxy import curl, expect_problem, expect_refusal
from harness.servers import Relay
from real.world import World


@case("control: Keycloak issues a token for SPIRE's JWT-SVID, without the proxy")
def control(world: World):
    """Fails where the parts do not work together, so that the proxy is not blamed for it."""
    status, answer = jwt_svid_at_keycloak(world, world.keycloak.issuer())
    expect(status == 200, f"Keycloak answers {status} {answer}")
    claims = world.upstream.claims(f"Bearer {answer['access_token']}")
    expect(claims["azp"] == AGENT, f"azp is {claims.get('azp')}")
    status, answer = jwt_svid_at_keycloak(world, world.keycloak.issuer() + "/")
    expect(status in (400, 401), f"a JWT-SVID for another audience: {status} {answer}")


def jwt_svid_at_keycloak(world: World, audience: str) -> tuple[int, dict]:
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
        "client_assertion": world.spire.jwt_svid(audience),
    }
    try:
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(world.keycloak.endpoint("token"), data, 30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@case("a: client_credentials with a JWT-SVID; the upstream verifies the token")
def client_credentials(world: World):
    proxy = world.proxy("a", CLIENT_CREDENTIALS, issuer=world.keycloak.issuer(), upstream=world.upstream.url)
    proxy.wait_ready()
    answer = proxy.call("http://api.example.com/v1/events", "-H", "authorization: Bearer of-the-agent")
    expect(answer.status == 200, f"through the proxy: {answer}")
    claims = answer.json()["claims"]
    expect(claims["azp"] == AGENT, f"azp is {claims.get('azp')}")
    expect(set(claims["scope"].split()) >= {"calendar:read"}, f"scope is {claims['scope']}")
    expect("calendar:write" not in claims["scope"], f"the token has more than the route's scope: {claims['scope']}")
    expect(answer.json()["path"] == "/v1/events", f"the path changed: {answer}")

    by_base_url = curl(f"{proxy.base}/api.example.com/v1/events")
    expect(by_base_url.status == 200, f"by base URL: {by_base_url}")
    by_host = curl("-H", "host: api.example.com", f"{proxy.base}/v1/events")
    expect(by_host.status == 200, f"by Host: {by_host}")
    asked = proxy.metric("exchanges_total", server="sso")
    expect(asked == 1, f"three requests need one token, but Keycloak was asked {asked:.0f} times")
    expect(
        proxy.metric("token_cache_total", tier="access", result="hit") == 2, "two of three requests must be cache hits"
    )
    expect(proxy.metric("injected_total", kind="bearer") == 3, "three tokens must be injected")

    expect_problem(proxy.call("http://elsewhere.example.com/"), 403, "elsewhere.example.com")
    expect_refusal(proxy.call("http://admin.example.com/"), "invalid_scope")


CLIENT_CREDENTIALS = """
    identity: { workload_api: { socket: unix://$socket } }
    authorization_servers:
      sso: { issuer: $issuer, client_auth: spiffe_jwt }
    routes:
      - match: { host: api.example.com }
        token: { flow: { client_credentials: { server: sso } }, scopes: [calendar:read] }
        upstream: { url: $upstream }
      - match: { host: admin.example.com }
        token: { flow: { client_credentials: { server: sso } }, scopes: [calendar:admin] }
        upstream: { url: $upstream }
    """


@case("b: an ID-JAG issued by the proxy, redeemed for the agent itself and for alice")
def id_jag(world: World):
    keycloak, relay = world.keycloak, Relay(world.run, world.keycloak.endpoint("token"))
    proxy = assertion_proxy(world, "b", ID_JAG, relay=relay.url)
    own = proxy.call("http://own.example.com/")
    expect(own.status == 200, f"for the agent itself: {own}")
    claims = own.json()["claims"]
    expect(claims["azp"] == AGENT and claims["preferred_username"] == "agent", f"for the agent itself: {claims}")

    token = ["-H", f"x-user-token: {keycloak.alice_id_token()}"]
    alice = proxy.call("http://calendar.example.com/", *token)
    expect(alice.status == 200, f"for alice: {alice}")
    claims = alice.json()["claims"]
    expect(claims["azp"] == AGENT and claims["preferred_username"] == "alice", f"for alice: {claims}")
    expect("x-user-token" not in alice.json()["saw"], "alice's own token reached the upstream")

    header, sent = assertion_of(relay.forms[-1])
    expect(header["typ"] == "oauth-id-jag+jwt", f"header of the ID-JAG: {header}")
    named = {"iss": ASSERTION_ISSUER, "sub": ALICE, "aud": keycloak.issuer(), "client_id": AGENT}
    expect({key: sent.get(key) for key in named} == named, f"claims of the ID-JAG: {sent}")
    expect(sent.get("act", {}).get("sub") == AGENT, f"the agent is not the actor: {sent}")
    expect(sent["exp"] - sent["iat"] <= 300 and sent.get("jti"), f"lifetime or jti: {sent}")

    expect_problem(proxy.call("http://calendar.example.com/"), 401)
    other = ["-H", f"x-user-token: {keycloak.alice_id_token('another-app')}"]
    expect_problem(proxy.call("http://calendar.example.com/", *other), 401)
    forged = ["-H", f"x-user-token: {token[1].split(': ')[1][:-8]}AAAAAAAA"]
    expect_problem(proxy.call("http://calendar.example.com/", *forged), 401)
    expect(len(relay.forms) == 2, f"a refused user token reached Keycloak: {len(relay.forms)} forms")


ASSERTIONS = """
    identity:
      workload_api: { socket: unix://$socket }
      assertion: { issuer: $assertion_issuer, key_file: assertion.pem, kid: real-1 }
    """
ID_JAG = """
    authorization_servers:
      corp: { issuer: $corp, client_id: calendar-agent, client_auth: none }
      calendar: { issuer: $issuer, client_auth: spiffe_jwt, endpoints: { token: $relay } }
    routes:
      - match: { host: own.example.com }
        token: { flow: { self_issued: { server: calendar, grant: jwt_bearer } }, scopes: [calendar:read] }
        upstream: { url: $upstream }
      - match: { host: calendar.example.com }
        token:
          flow: { self_issued: { server: calendar, grant: jwt_bearer } }
          subject: { header: { name: x-user-token, server: corp, type: id_token } }
          scopes: [calendar:read]
        upstream: { url: $upstream }
    """


def assertion_proxy(world: World, name: str, settings: str, **values):
    """Starts a proxy that issues ID-JAGs and publishes its key where Keycloak looks for it."""
    key_file = world.run.directory / "assertion.pem"
    # There is one key for the whole run because Keycloak caches keys by key id.
    if not key_file.exists():
        key_file.write_bytes(ECKey.generate_key("P-256").as_pem(private=True))
    values |= {
        "assertion_issuer": ASSERTION_ISSUER,
        "issuer": world.keycloak.issuer(),
        "corp": world.keycloak.issuer("corp"),
    }
    settings = textwrap.dedent(ASSERTIONS) + textwrap.dedent(settings)
    return world.proxy(name, settings, jwks=True, upstream=world.upstream.url, **values).wait_ready()


def assertion_of(form: str) -> tuple[dict, dict]:
    """Returns header and claims of the assertion in a token request."""
    parts = urllib.parse.parse_qs(form)["assertion"][0].split(".")
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in parts[:2])
    return header, claims


@case("b: a wrong client, a wrong audience and a replayed ID-JAG are refused and reported")
def id_jag_refused(world: World):
    twice = Relay(world.run, world.keycloak.endpoint("token"), times=2)
    watched = Relay(world.run, world.keycloak.endpoint("token"))
    secret = world.run.directory / "calendar-bot.secret"
    secret.write_text("calendar-bot-secret")
    proxy = assertion_proxy(world, "b-refused", REFUSED, twice=twice.url, watched=watched.url)
    reached = world.upstream.count
    for host, server, text in [
        ("wrong-client", "wrong_client", "client"),
        ("wrong-audience", "wrong_audience", "Invalid token audience"),
        ("replayed", "replayed", "Token reuse detected"),
    ]:
        refused = proxy.metric("refused_total")
        answer = proxy.call(f"http://{host}.example.com/")
        status, body = (watched if host.startswith("wrong") else twice).answers[-1]
        refused_as_meant = status in (400, 401) and text in body
        expect(refused_as_meant, f"{host}: Keycloak refused for another reason: {status} {body}")
        expect_refusal(answer, json.loads(body)["error"])
        words = json.loads(body)["error_description"]
        # A thread of its own writes the log.
        wait_until(f"Keycloak's error description in the log: {words}", partial(proxy.has_logged, words), 5)
        expect(words not in answer.body, f"{host}: Keycloak's error description reached the agent: {answer}")
        exchanges = proxy.metric("exchanges_total", server=server)
        failures = exchanges - proxy.metric("exchanges_total", server=server, outcome="success")
        expect(failures >= 1, f"{host}: no failed exchange in the metrics")
        expect(proxy.metric("refused_total") > refused, f"{host}: not counted as refused")
    expect([status for status, _ in twice.answers] == [200, 400], f"the relay's answers: {twice.answers}")
    expect(world.upstream.count == reached, "a refused request reached the upstream")


REFUSED = """
    authorization_servers:
      wrong_client:
        issuer: $issuer
        client_id: another-agent
        client_auth: spiffe_jwt
        endpoints: { token: $watched }
      wrong_audience:
        issuer: $issuer/
        client_id: calendar-bot
        client_auth: { client_secret_basic: { secret_file: calendar-bot.secret } }
        endpoints: { token: $watched }
      replayed: { issuer: $issuer, client_auth: spiffe_jwt, endpoints: { token: $twice } }
    routes:
      - match: { host: wrong-client.example.com }
        token: { flow: { self_issued: { server: wrong_client, grant: jwt_bearer } } }
        upstream: { url: $upstream }
      - match: { host: wrong-audience.example.com }
        token: { flow: { self_issued: { server: wrong_audience, grant: jwt_bearer } } }
        upstream: { url: $upstream }
      - match: { host: replayed.example.com }
        token: { flow: { self_issued: { server: replayed, grant: jwt_bearer } } }
        upstream: { url: $upstream }
    """
