"""e: outages of SPIRE and Keycloak. These cases come last because Keycloak is not restarted."""

import signal
import time

from harness.cases import case, expect
from harness.parts import wait_until
from harness.proxy import Answer, Load, Proxy, expect_problem
from real.world import World

URL = "http://api.example.com/"


@case("e: the SPIRE agent stops: no failure until the SVID expires, then 503, then recovery by itself")
def without_spire(world: World):
    spire, proxy = world.spire, outage_proxy(world, "e-spire")
    with Load(proxy, URL) as load:
        load.more(50)
        spire.agent.stop(signal.SIGKILL)
        expiry = proxy.metric("svid_expiry_timestamp_seconds")
        expect(0 < expiry - time.time() <= 20, f"the SVID expires in {expiry - time.time():.1f} s")
        load.more(20)
        # Nothing may fail until one second before expiry; clocks and timers are not exact.
        wait_until("the last second of the SVID", lambda: time.time() >= expiry - 1, 30, proxy.part)
        load.expect_no_failure("the SVID was still valid")

        wait_until("the SVID to expire", lambda: proxy.call(URL).status != 200, 15, proxy.part)
        answer = proxy.call(URL)
        expect_problem(answer, 503)
        expect("retry-after" in answer.headers, f"no Retry-After: {answer}")
        names_cause = "identity" in answer.body.lower() or "svid" in answer.body.lower()
        expect(names_cause, f"the answer does not name what is missing: {answer}")
        status, body = proxy.readiness()
        expect(status == 503 and body.strip(), f"readiness without an identity: {status} {body!r}")
        others = [failure for failure in load.failures if " 503 " not in failure]
        expect(not others, f"failures other than 503: {others[:3]}")

    spire.start_agent()
    wait_until("recovery after the agent's restart", lambda: proxy.call(URL).status == 200, 60, proxy.part)
    wait_until("readiness after the recovery", lambda: proxy.readiness()[0] == 200, 10, proxy.part)
    with Load(proxy, URL) as load:
        load.more(50)
        load.expect_no_failure("the agent was back")
    expect(world.upstream.refused == 0, "a request reached the upstream without a valid token")


OUTAGE = """
    identity: { workload_api: { socket: unix://$socket } }
    authorization_servers:
      sso: { issuer: $issuer, client_auth: spiffe_jwt }
    routes:
      - match: { host: api.example.com }
        token: { flow: { client_credentials: { server: sso } }, scopes: [calendar:read] }
        upstream: { url: $upstream }
    """


def outage_proxy(world: World, name: str) -> Proxy:
    world.upstream.refused = 0
    proxy = world.proxy(name, OUTAGE, issuer=world.keycloak.issuer(), upstream=world.upstream.url)
    return proxy.wait_ready()


@case("e: Keycloak stops: no failure while the token is valid, then 503")
def without_keycloak(world: World):
    proxy = outage_proxy(world, "e-keycloak")
    with Load(proxy, URL) as load:
        load.more(50)
        world.keycloak.part.stop(signal.SIGKILL)
        expiry = proxy.metric("token_expiry_timestamp_seconds")
        expect(expiry - time.time() > 30, f"the token expires in only {expiry - time.time():.1f} s")
        # A token may be retired some seconds early, so that it does not expire in transit.
        wait_until("the token's last seconds", lambda: time.time() >= expiry - 12, 90, proxy.part)
        load.expect_no_failure("Keycloak was away and the token valid")
        answer = wait_until("the token to expire", lambda: failed_answer(proxy), 30, proxy.part)
        expect_problem(answer, 503)
        expect("retry-after" in answer.headers, f"no Retry-After: {answer}")
    expect(world.upstream.refused == 0, "a request reached the upstream without a valid token")


def failed_answer(proxy: Proxy) -> Answer | None:
    answer = proxy.call(URL)
    return answer if answer.status != 200 else None
