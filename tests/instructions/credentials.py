"""X.509-SVIDs, a user's token and its issuer's key, made by the openssl program."""

import base64
import json
import subprocess
import time
from pathlib import Path

from harness.cases import Failed

DOMAIN = "example.org"
DAY = 86400
CONFIGURATION = f"""
[req]
distinguished_name = name
prompt = no
[name]
O = Instructions
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectAltName = URI:spiffe://{DOMAIN}
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = URI:$ENV::SPIFFE_ID
"""


class Credentials:
    """Files in `directory`, valid for two days: bundle.pem, and NAME.pem and NAME.key per SVID."""

    def __init__(self, directory: Path):
        self.directory = directory
        (directory / "openssl.cnf").write_text(CONFIGURATION)
        self._key("ca.key")
        self._openssl("req -x509 -new -key ca.key -out bundle.pem -days 2 -extensions authority -config openssl.cnf")
        self._key("issuer.key")

    def svid(self, name: str) -> str:
        """Issues an SVID and returns its SPIFFE ID."""
        spiffe_id = f"spiffe://{DOMAIN}/{name}"
        self._key(f"{name}.key")
        self._openssl(f"req -new -key {name}.key -out {name}.csr -config openssl.cnf")
        authority = "-CA bundle.pem -CAkey ca.key -CAcreateserial -days 2 -extfile openssl.cnf -extensions leaf"
        self._openssl(f"x509 -req -in {name}.csr -out {name}.pem {authority}", spiffe_id=spiffe_id)
        return spiffe_id

    def user_token(self, issuer: str, audience: str) -> str:
        """Returns an ID token of `issuer`."""
        now = int(time.time())
        header = {"alg": "ES256", "typ": "JWT", "kid": "issuer"}
        claims = {"iss": issuer, "sub": "alice", "aud": audience, "iat": now, "exp": now + DAY}
        signed = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        der = self._openssl("dgst -sha256 -sign issuer.key", stdin=signed)
        return b".".join([signed, _base64(_fixed(der))]).decode()

    def jwks(self) -> dict:
        """Returns the key set that verifies `user_token`."""
        point = self._openssl("pkey -in issuer.key -pubout -outform DER")[-64:]
        x, y = (_base64(half).decode() for half in (point[:32], point[32:]))
        return {"keys": [{"kty": "EC", "crv": "P-256", "kid": "issuer", "use": "sig", "alg": "ES256", "x": x, "y": y}]}

    def _key(self, name: str):
        self._openssl(f"genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}")

    def _openssl(self, words: str, stdin: bytes = b"", spiffe_id: str = "") -> bytes:
        environment = {"PATH": "/usr/bin:/bin", "SPIFFE_ID": spiffe_id or f"spiffe://{DOMAIN}"}
        argv = ["openssl", *words.split()]
        done = subprocess.run(argv, cwd=self.directory, input=stdin, capture_output=True, env=environment)
        if done.returncode != 0:
            raise Failed(f"openssl {words}: {done.stderr.decode()}")
        return done.stdout


def _fixed(der: bytes) -> bytes:
    """Converts an ECDSA signature from DER (RFC 3279 §2.2.3) to JWS' r and s of 32 bytes each."""
    numbers, rest = [], der[2:]
    for _ in range(2):
        length = rest[1]
        numbers.append(int.from_bytes(rest[2 : 2 + length], "big").to_bytes(32, "big"))
        rest = rest[2 + length :]
    return b"".join(numbers)


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
