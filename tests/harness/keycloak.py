"""Keycloak with two realms.

`agents` is the resource's authorization server, `corp` is alice's own issuer.
"""

import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from harness.parts import Part, Run, fetch, free_ports, wait_until

AGENT = "spiffe://example.org/agent"
SCOPES = ["calendar:read", "calendar:write"]
ALICE = "a11ce000-0000-4000-8000-000000000001"  # her user id in realm `corp`, the `sub` of her ID tokens
PASSWORD = "correct horse"
ASSERTION_ISSUER = "https://assertions.example.org"
# Seconds: short enough that tokens are renewed under load, long enough for the outage of case e.
TOKEN_LIFETIME = 60


@dataclass
class Https:
    """An HTTPS address for clients outside this machine; the issuer's URL then has it."""

    host: str
    port: int
    certificate: Path
    key: Path


class Keycloak:
    """A Keycloak process.

    `spire_jwks_url` has the keys of JWT-SVIDs, `jwks_url` those of the proxy's ID-JAGs. `agents`
    are the SPIFFE IDs of its clients.
    """

    def __init__(
        self,
        run: Run,
        home: Path,
        java: Path,
        spire_jwks_url: str,
        jwks_url: str,
        agents: tuple[str, ...] = (AGENT,),
        https: Https | None = None,
    ):
        self.run, self.java, self.agents, self.https = run, java, agents, https
        self.port, self.management_port = free_ports(2)
        self.host = https.host if https else "127.0.0.1"
        self.base = f"http://{self.host}:{self.port}"
        self.public = f"https://{https.host}:{https.port}" if https else self.base
        self.home = home
        self.realms = {"agents": _agents_realm(spire_jwks_url, jwks_url, agents), "corp": _corp_realm()}
        self.part: Part | None = None
        self.admin_token = ""

    def issuer(self, realm: str = "agents") -> str:
        return f"{self.public}/realms/{realm}"

    def endpoint(self, name: str, realm: str = "agents") -> str:
        """Returns an endpoint's URL for use on this machine."""
        return f"{self.base}/realms/{realm}/protocol/openid-connect/{name}"

    def start(self):
        """Returns once both realms exist: after half a minute, longer on a busy machine."""
        options = [
            "--db=dev-mem",
            f"--http-host={self.host}",
            f"--http-port={self.port}",
            f"--http-management-port={self.management_port}",
            f"--hostname={self.public}",
            "--health-enabled=true",
            "--features=spiffe,identity-assertion-jwt",
            "--log-level=INFO,org.keycloak.broker:debug,org.keycloak.authentication:debug",
            # The proxy's JWKS changes between cases and must be fetched again at once.
            "--spi-public-key-storage--infinispan--min-time-between-requests=1",
        ]
        if self.https:
            options += [
                f"--https-port={self.https.port}",
                f"--https-certificate-file={self.https.certificate}",
                f"--https-certificate-key-file={self.https.key}",
                "--http-management-scheme=http",
            ]
        environment = {
            "JAVA_HOME": str(self.java),
            "KC_BOOTSTRAP_ADMIN_USERNAME": "admin",
            "KC_BOOTSTRAP_ADMIN_PASSWORD": PASSWORD,
            "JAVA_OPTS_APPEND": "-XX:ActiveProcessorCount=2",
        }
        self.part = self.run.start("keycloak", [self.home / "bin" / "kc.sh", "start-dev", *options], environment)
        health = f"http://{self.host}:{self.management_port}/health/ready"
        wait_until("Keycloak", lambda: fetch(health)[0] == 200, 300, self.part, every=1)
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": PASSWORD}
        self.admin_token = _json(self.endpoint("token", "master"), form)["access_token"]
        # Realms are not imported from files in Keycloak's directory, because all runs share it.
        for realm in self.realms.values():
            _admin(self.admin_token, "POST", f"{self.base}/admin/realms", realm)
        self._create_scopes()

    def alice_id_token(self, client: str = "calendar-agent") -> str:
        """Logs alice in at realm `corp` and returns her ID token for `client`."""
        form = {
            "grant_type": "password",
            "client_id": client,
            "username": "alice",
            "password": PASSWORD,
            "scope": "openid",
        }
        return _json(self.endpoint("token", "corp"), form)["id_token"]

    def _create_scopes(self):
        """Adds the scopes by the API: `clientScopes` of a realm replaces the built-in ones."""
        token = self.admin_token
        admin = f"{self.base}/admin/realms/agents"
        for scope in SCOPES:
            body = {"name": scope, "protocol": "openid-connect", "attributes": {"include.in.token.scope": "true"}}
            _admin(token, "POST", f"{admin}/client-scopes", body)
        ids = [one["id"] for one in _admin(token, "GET", f"{admin}/client-scopes") if one["name"] in SCOPES]
        for client in _admin(token, "GET", f"{admin}/clients"):
            if client["clientId"] in (*self.agents, "calendar-bot"):
                for scope in ids:
                    _admin(token, "PUT", f"{admin}/clients/{client['id']}/optional-client-scopes/{scope}", {})


def _agents_realm(spire_jwks_url: str, jwks_url: str, agents: tuple[str, ...]) -> dict:
    spiffe = {"trustDomain": "spiffe://example.org", "bundleEndpoint": spire_jwks_url, "allowedClockSkew": "5"}
    grants = {
        "standard.token.exchange.enabled": "true",
        "oauth2.jwt.authorization.grant.enabled": "true",
        "oauth2.jwt.authorization.grant.idp": "corp-idp",
    }
    client = {
        "protocol": "openid-connect",
        "enabled": True,
        "publicClient": False,
        "serviceAccountsEnabled": True,
        "standardFlowEnabled": False,
    }
    by_svid = client | {"clientAuthenticatorType": "federated-jwt"}

    def subject(agent):
        return {"jwt.credential.issuer": "spire", "jwt.credential.sub": agent} | grants

    return {
        "realm": "agents",
        "enabled": True,
        "sslRequired": "none",
        "accessTokenLifespan": TOKEN_LIFETIME,
        "identityProviders": [
            {"alias": "spire", "providerId": "spiffe", "enabled": True, "config": spiffe},
            {
                "alias": "corp-idp",
                "providerId": "jwt-authorization-grant",
                "enabled": True,
                "config": _assertion_grant(jwks_url),
            },
        ],
        "clients": [
            *(by_svid | {"clientId": agent, "attributes": subject(agent)} for agent in agents),
            client | {"clientId": "calendar-bot", "secret": "calendar-bot-secret", "attributes": grants},
        ],
        "users": [_user("alice", ALICE), _user("agent", AGENT)],
    }


def _assertion_grant(jwks_url: str) -> dict:
    return {
        "issuer": ASSERTION_ISSUER,
        "useJwksUrl": "true",
        "jwksUrl": jwks_url,
        "jwtAuthorizationGrantEnabled": "true",
        "jwtAuthorizationGrantAssertionReuseAllowed": "false",
        "jwtAuthorizationGrantMaxAllowedAssertionExpiration": "300",
        "jwtAuthorizationGrantAssertionSignatureAlg": "ES256",
        "jwtAuthorizationGrantAllowedClockSkew": "5",
        "jwtAuthorizationGrantLimitAccessTokenExp": "true",
    }


def _user(name: str, subject: str) -> dict:
    """A user of realm `agents` whom the assertions of `corp-idp` name by `subject`."""
    linked = [{"identityProvider": "corp-idp", "userId": subject, "userName": name}]
    return _person(name) | {"federatedIdentities": linked}


def _corp_realm() -> dict:
    client = {"clientId": "calendar-agent", "publicClient": True, "directAccessGrantsEnabled": True, "enabled": True}
    password = [{"type": "password", "value": PASSWORD, "temporary": False}]
    return {
        "realm": "corp",
        "enabled": True,
        "sslRequired": "none",
        "clients": [client, client | {"clientId": "another-app"}],
        "users": [_person("alice") | {"id": ALICE, "credentials": password}],
    }


def _person(name: str) -> dict:
    # Without any of these Keycloak answers "Account is not fully set up".
    complete = {"email": f"{name}@example.org", "emailVerified": True, "firstName": name, "lastName": "Example"}
    return {"username": name, "enabled": True, **complete}


def _json(url: str, form: dict) -> dict:
    with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), timeout=30) as answer:
        return json.load(answer)


def _admin(token: str, method: str, url: str, body: dict | None = None):
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None
