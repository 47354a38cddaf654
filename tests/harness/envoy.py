"""Envoy as an mTLS server: its certificate and its trust come from the SPIRE agent by SDS."""

import json
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from harness.parts import Run, fetch, free_ports, wait_until

REPORTS = "spiffe://example.org/reports"
TYPES = "type.googleapis.com/envoy.extensions"


@dataclass
class Bootstrap:
    """The bootstrap of an Envoy that serves as `identity`.

    It admits callers whose SPIFFE ID `admits` matches. Addresses are a host and a port.
    """

    identity: str
    admits: dict
    listen: tuple[str, int]
    admin: tuple[str, int]
    agent_socket: str
    upstream: tuple[str, int]

    def json(self) -> str:
        name = self.identity.rsplit("/", 1)[1]
        static = {"listeners": [_listener(self, name)], "clusters": _clusters(self.agent_socket, self.upstream)}
        admin = {"address": _address(self.admin)}
        return json.dumps({"node": {"id": name, "cluster": name}, "admin": admin, "static_resources": static}, indent=1)


class Envoy:
    """Serves as `spiffe://example.org/reports` and admits only `client`.

    Requests are forwarded to `upstream_port` in clear text, with the caller's certificate chain in
    `x-forwarded-client-cert`.
    """

    def __init__(self, run: Run, program: Path, agent_socket: Path, upstream_port: int, client: str):
        self.port, self.admin_port = free_ports(2)
        self.url = f"https://127.0.0.1:{self.port}"
        config = run.directory / "envoy.json"
        listen, admin, upstream = (("127.0.0.1", port) for port in (self.port, self.admin_port, upstream_port))
        config.write_text(Bootstrap(REPORTS, {"exact": client}, listen, admin, str(agent_socket), upstream).json())
        self.part = run.start("envoy", [program, "-c", config, "--concurrency", "1", "--disable-hot-restart"])

    def wait(self):
        wait_until("Envoy's certificate by SDS", self.serial_number, 60, self.part)

    def serial_number(self) -> str | None:
        """Returns the serial number of the certificate that Envoy presents now."""
        serials = [leaf["serial_number"] for one in self._certificates() for leaf in one.get("cert_chain", [])]
        return serials[0] if serials else None

    def authority(self) -> str:
        """Returns the key identifier in hex of the authority that signed that certificate.

        It is also SPIRE's id of the authority.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        # In TLS 1.3 the client's handshake completes before Envoy rejects the missing certificate.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with socket.create_connection(("127.0.0.1", self.port), 5) as plain, context.wrap_socket(plain) as tls:
            return authority_key_identifier(x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)))

    def trusted(self) -> set[str]:
        """Returns the serial numbers of the authorities that Envoy trusts now."""
        return {ca["serial_number"] for one in self._certificates() for ca in one.get("ca_cert", [])}

    def _certificates(self) -> list[dict]:
        status, text = fetch(f"http://127.0.0.1:{self.admin_port}/certs")
        return json.loads(text).get("certificates", []) if status == 200 else []


def authority_key_identifier(certificate: x509.Certificate) -> str:
    return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier.hex()


def _listener(bootstrap: Bootstrap, name: str) -> dict:
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True, "chain": True},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                }
            ]
        },
    }
    pin = [{"san_type": "URI", "matcher": bootstrap.admits}]
    tls = {
        "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [_secret(bootstrap.identity)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": pin},
                "validation_context_sds_secret_config": _secret("spiffe://example.org"),
            },
        },
    }
    chain = {
        "transport_socket": {"name": "tls", "typed_config": tls},
        "filters": [{"name": "http", "typed_config": manager}],
    }
    return {"name": name, "address": _address(bootstrap.listen), "filter_chains": [chain]}


def _secret(name: str) -> dict:
    grpc = [{"envoy_grpc": {"cluster_name": "spire_agent"}}]
    source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": grpc}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": source}}


def _clusters(agent_socket: str, upstream: tuple[str, int]) -> list[dict]:
    http2 = {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    agent = _cluster("spire_agent", {"pipe": {"path": agent_socket}})
    agent["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}
    return [agent, _cluster("upstream", _address(upstream))]


def _cluster(name: str, address: dict) -> dict:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"name": name, "connect_timeout": "2s", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def _address(address: tuple[str, int]) -> dict:
    host, port = address
    return {"socket_address": {"address": host, "port_value": port}}
