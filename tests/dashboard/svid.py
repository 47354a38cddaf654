"""X.509-SVIDs that live for seconds, issued by the openssl program."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

CONFIGURATION = """
[ca]
default_ca = authority
[authority]
database = {directory}/index
new_certs_dir = {directory}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
organizationName = optional
[req]
distinguished_name = name
prompt = no
[name]
O = SPIRE
[authority_extensions]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectAltName = URI:spiffe://{domain}
[leaf_extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = URI:{spiffe_id}
"""


class Issuer:
    """A trust domain's authority, and the files of a workload: svid.pem, svid.key, bundle.pem."""

    def __init__(self, directory: Path, spiffe_id: str):
        self.directory = directory
        directory.mkdir()
        self.configuration = directory / "openssl.cnf"
        domain = spiffe_id.split("/")[2]
        self.configuration.write_text(CONFIGURATION.format(directory=directory, domain=domain, spiffe_id=spiffe_id))
        (directory / "index").touch()
        self._key("ca.key")
        self._openssl("req -x509 -new -key ca.key -out bundle.pem -days 2 -extensions authority_extensions")

    def renew(self, seconds: int) -> float:
        """Writes a new certificate with a new key and returns its expiry as a timestamp.

        Each file is replaced atomically, the key first.
        """
        ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
        begins = ends - timedelta(seconds=seconds + 60)
        self._key("new.key")
        self._openssl("req -new -key new.key -out new.csr")
        stamp = "%y%m%d%H%M%SZ"
        dates = f"-startdate {begins.strftime(stamp)} -enddate {ends.strftime(stamp)}"
        files = "-in new.csr -out new.pem -keyfile ca.key -cert bundle.pem"
        self._openssl(f"ca -batch -notext {files} {dates} -extensions leaf_extensions")
        os.replace(self.directory / "new.key", self.directory / "svid.key")
        os.replace(self.directory / "new.pem", self.directory / "svid.pem")
        return ends.timestamp()

    def _key(self, name: str):
        self._run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", name)

    def _openssl(self, words: str):
        command, *arguments = words.split()
        self._run(command, "-config", str(self.configuration), *arguments)

    def _run(self, *arguments: str):
        done = subprocess.run(["openssl", *arguments], cwd=self.directory, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"openssl {' '.join(arguments)}: {done.stderr}")
