//! Upstreams: where the requests of a route go, and with which TLS settings.
use super::Builder;
use crate::config::file::{ClientCertificateFile, HostRuleFile, ProtocolFile, RouteFile, TrustFile};
use crate::config::leaf::OriginUrl;
use crate::config::problem::KeyPath;
use crate::policy::{CredentialRule, HostRule, Origin, Scheme, Upstream, UpstreamProtocol};
use crate::tls::{ClientCertificate, ClientTls};

impl Builder<'_> {
    /// Builds the upstream of a route. Returns `None` after it has reported what is wrong.
    pub(super) fn upstream(
        &mut self,
        path: &KeyPath,
        route: &RouteFile,
        credential: &CredentialRule,
    ) -> Option<Upstream> {
        let path = path.key("upstream");
        let egress_proxy = self.egress_proxy_of(route.egress_proxy.as_ref());
        let origin = route.upstream.url.as_ref().map(origin);
        if let Some(url) = &route.upstream.url {
            if credential.injects() {
                self.check_plain_http(&path.key("url"), url.0.as_str());
            }
            self.check_no_loop(&path.key("url"), url);
        }
        let protocol = route.upstream.protocol.as_ref().map(|protocol| match protocol {
            ProtocolFile::Http1 => UpstreamProtocol::Http1,
            ProtocolFile::Http2 => UpstreamProtocol::Http2,
        });
        let host = match &route.upstream.host {
            Some(HostRuleFile::Preserve) => HostRule::Preserve,
            None => HostRule::Upstream,
        };
        if host == HostRule::Preserve && origin.is_none() {
            self.warn(&path.key("host"), "without `url` the host is the one that the agent named in any case");
        }
        let tls = &route.upstream.tls;
        if origin.as_ref().is_some_and(|origin| origin.scheme == Scheme::Http) {
            if self.is_written(&path.key("tls")) {
                self.error(&path.key("tls"), "plain HTTP has no TLS").help("write `https` in `url`, or remove `tls`");
            }
            return Some(Upstream { origin, protocol, host, egress_proxy, ..Upstream::default() });
        }
        let trust = self.trust(&path.key("tls").key("server"), &tls.server)?;
        let client_certificate = match &tls.client_certificate {
            Some(ClientCertificateFile::Svid) => ClientCertificate::Svid,
            None => ClientCertificate::None,
        };
        if client_certificate == ClientCertificate::Svid
            && matches!(tls.server, TrustFile::WebPki)
            && route.upstream.url.is_none()
        {
            self.warn(
                &path.key("tls").key("client_certificate"),
                "the SVID is presented to any server that a public certificate authority vouches for",
            )
            .help("pin the upstream with `server: { spiffe_ids: […] }` or `server: { ca_file: … }`");
        }
        let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let server_name = tls.server_name.as_ref().map(|name| name.0.as_str().into());
        let tls = Some(ClientTls { trust, client_certificate, alpn });
        Some(Upstream { origin, tls, server_name, protocol, host, egress_proxy })
    }

    pub(super) fn check_no_loop(&mut self, path: &KeyPath, url: &OriginUrl) {
        let port = url.0.port_or_known_default().unwrap_or_default();
        let loopback = match url.0.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if loopback && self.outbound_ports.contains(&port) {
            self.error(path, "the proxy itself listens for the agent at this address: requests would loop");
        }
    }
}

fn origin(url: &OriginUrl) -> Origin {
    let scheme = if url.0.scheme() == "http" { Scheme::Http } else { Scheme::Https };
    let host = url.0.host_str().unwrap_or_default().to_ascii_lowercase();
    Origin { scheme, host: host.into(), port: url.0.port().unwrap_or(scheme.default_port()) }
}
