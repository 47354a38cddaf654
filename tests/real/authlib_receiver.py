"""An authorization server with Authlib's ID-JAG grant, and its resource.

Arguments: PORT ISSUER JWKS_URL. Only the hooks that Authlib leaves to its users are ours; every
check of an assertion is Authlib's.
"""

import json
import os
import sys
import urllib.request

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.drafts import IDJAGGrant
from authlib.oauth2.rfc6749 import ClientMixin, InvalidGrantError, list_to_scope, scope_to_list
from flask import Flask, jsonify, request
from joserfc.jwk import KeySet

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES = ["read", "write"]


class Client(ClientMixin):
    def __init__(self, client_id: str, grants: list[str]):
        self.client_id, self.grants = client_id, grants

    def get_client_id(self):
        return self.client_id

    def get_allowed_scope(self, scope):
        return list_to_scope([one for one in scope_to_list(scope) or [] if one in SCOPES])

    def check_client_secret(self, client_secret):
        return client_secret == f"{self.client_id}-secret"

    def check_endpoint_auth_method(self, method, endpoint):
        return method == "client_secret_basic"

    def check_grant_type(self, grant_type):
        return grant_type in self.grants


def application(issuer: str, assertion_issuer: str, jwks_url: str) -> Flask:
    """The users are a JSON list of subjects in the environment variable `USERS`."""
    app = Flask("receiver")
    clients = {name: Client(name, [GRANT]) for name in ("calendar", "another")} | {"no-grant": Client("no-grant", [])}
    users, used, tokens = json.loads(os.environ["USERS"]), set(), {}

    class Grant(IDJAGGrant):
        def get_audiences(self):
            return [issuer]

        def resolve_issuer_key(self, iss, headers):
            if iss != assertion_issuer:
                raise InvalidGrantError(description="unknown issuer")
            with urllib.request.urlopen(jwks_url, timeout=10) as answer:
                return KeySet.import_key_set(json.load(answer))

        def authenticate_user(self, subject):
            return subject if subject in users else None

        def check_jti(self, claims, jti):
            fresh = jti not in used
            used.add(jti)
            return fresh

        def check_id_jag_permission(self, client, user, scopes):
            return True

    def save_token(token, asked):
        tokens[token["access_token"]] = {
            "sub": asked.user,
            "client_id": asked.client.client_id,
            "scope": token.get("scope"),
        }

    app.config["OAUTH2_SCOPES_SUPPORTED"] = SCOPES
    server = AuthorizationServer(app, clients.get, save_token)
    server.register_grant(Grant)
    app.post("/token")(server.create_token_response)

    @app.get("/.well-known/oauth-authorization-server")
    def metadata():
        methods = ["client_secret_basic"]
        return jsonify(
            issuer=issuer,
            token_endpoint=f"{issuer}/token",
            grant_types_supported=[GRANT],
            token_endpoint_auth_methods_supported=methods,
        )

    @app.get("/api")
    def resource():
        known = tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        return jsonify(known) if known else (jsonify(error="invalid_token"), 401)

    return app


if __name__ == "__main__":
    port, assertion_issuer, jwks_url = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    # Allows assertions and client secrets over plain HTTP, which is loopback here.
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    application(f"http://127.0.0.1:{port}", assertion_issuer, jwks_url).run("127.0.0.1", port, threaded=True)
