"""a and b: SPIRE gives the identity, Keycloak the token, and an upstream verifies it."""

import json
import urllib.error
import urllib.parse
import urllib.request

from keycloak import AGENT, ALICE, ASSERTION_ISSUER
from parts import expect
from world import World, case


@case("control: SPIRE's JWT-SVID buys a token at Keycloak, without the proxy")
def control(world: World):
    """Fails when the parts do not work together, so that the proxy is not blamed for it."""
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
        with urllib.request.urlopen(world.keycloak.endpoint("token"), urllib.parse.urlencode(form).encode(), 30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
