"""Small servers: an upstream that verifies tokens, a token relay, and recorded answers."""

import json
import threading
import time
import urllib.error
import urllib.request

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet
from joserfc.jwt import JWTClaimsRegistry

from harness.parts import Run
from harness.web import Handler, Server


class Upstream(Server):
    """An API that requires a token of `issuer` and answers with what it received.

    Tokens are verified with the keys that the issuer publishes.
    """

    def __init__(self, run: Run, issuer: str, jwks_url: str, host: str = "127.0.0.1"):
        self.issuer, self.jwks_url = issuer, jwks_url
        self.lock = threading.Lock()
        self.keys: KeySet | None = None
        self.count = self.refused = 0
        super().__init__(run, _UpstreamHandler, host)

    def admitted(self, seen: dict):
        """Called for each request with a valid token.

        `seen` is the answer: `claims`, `path`, the header names `saw`, and `xfcc`.
        """

    def claims(self, authorization: str) -> dict:
        """Returns the claims of a valid token; raises JoseError or ValueError for any other."""
        token = jwt.decode(authorization.removeprefix("Bearer "), self.key_set(), algorithms=["RS256", "ES256"])
        expected = JWTClaimsRegistry(iss={"essential": True, "value": self.issuer}, exp={"essential": True})
        expected.validate(token.claims)
        return token.claims

    def key_set(self) -> KeySet:
        with self.lock:
            if self.keys is None:
                with urllib.request.urlopen(self.jwks_url, timeout=10) as answer:
                    published = json.load(answer)
                published["keys"] = [key for key in published["keys"] if key.get("use") == "sig"]
                self.keys = KeySet.import_key_set(published)
            return self.keys


class _UpstreamHandler(Handler):
    def answer(self):
        self.body()
        self.server.count += 1
        saw = sorted({name.lower() for name in self.headers})
        caller = self.headers.get("x-forwarded-client-cert", "")
        try:
            claims = self.server.claims(self.headers.get("authorization", ""))
        except (JoseError, ValueError) as error:
            self.server.refused += 1
            self.reply(
                401,
                {"refused": f"{type(error).__name__}: {error}"},
                {"www-authenticate": 'Bearer error="invalid_token"'},
            )
        else:
            seen = {"claims": claims, "path": self.path, "saw": saw, "xfcc": caller}
            self.server.admitted(seen)
            self.reply(200, seen)

    do_GET = do_POST = do_PUT = do_DELETE = answer


class Issuer(Server):
    """A company's OpenID provider as the proxy sees it: metadata and keys.

    It issues ID tokens for any subject.
    """

    def __init__(self, run: Run):
        self.key = ECKey.generate_key("P-256", {"kid": "corp-1", "use": "sig", "alg": "ES256"})
        super().__init__(run, _IssuerHandler)

    def id_token(self, subject: str, audience: str) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "sub": subject, "aud": audience, "iat": now, "exp": now + 300}
        return jwt.encode({"alg": "ES256", "kid": "corp-1", "typ": "JWT"}, claims, self.key)


class _IssuerHandler(Handler):
    def do_GET(self):
        if self.path == "/jwks":
            self.reply(200, {"keys": [self.server.key.as_dict(private=False)]})
        else:
            url = self.server.url
            self.reply(200, {"issuer": url, "token_endpoint": f"{url}/token", "jwks_uri": f"{url}/jwks"})


class Relay(Server):
    """Stands in front of a token endpoint and records forms and answers.

    Each form is forwarded `times` times; the client gets the last answer.
    """

    def __init__(self, run: Run, target: str, times: int = 1):
        self.target, self.times = target, times
        self.forms: list[str] = []
        self.answers: list[tuple[int, str]] = []
        super().__init__(run, _RelayHandler)


class _RelayHandler(Handler):
    def do_POST(self):
        form = self.body()
        self.server.forms.append(form.decode())
        kept = ("authorization", "content-type", "accept")
        headers = {name: value for name, value in self.headers.items() if name.lower() in kept}
        for _ in range(self.server.times):
            status, body = _post(self.server.target, form, headers)
            self.server.answers.append((status, body.decode()))
        self.reply(status, body)


class Recorded(Server):
    """A token endpoint that gives the same recorded answer to every request."""

    def __init__(self, run: Run, status: int, body, headers: dict | None = None):
        self.recorded = (status, body, headers)
        self.asked = 0
        super().__init__(run, _RecordedHandler)


class _RecordedHandler(Handler):
    def do_POST(self):
        self.body()
        self.server.asked += 1
        self.reply(*self.server.recorded)


def _post(url: str, form: bytes, headers: dict) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, form, headers), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
