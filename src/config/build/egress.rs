//! Which addresses requests may go to, and through which proxy they leave.
use super::Builder;
use crate::config::file::{EgressFile, EgressProxyFile, EgressProxyRuleFile};
use crate::config::leaf::Network;
use crate::config::problem::KeyPath;
use crate::egress_proxy::EgressProxy;
use crate::policy::EgressRules;
use std::sync::Arc;

impl Builder<'_> {
    /// Builds the egress proxy. Returns `None` if there is none, or after it has reported what is
    /// wrong.
    pub(super) fn egress_proxy(&mut self, file: &EgressProxyFile) -> Option<Arc<EgressProxy>> {
        let path = KeyPath::default().key("egress_proxy");
        let url = &file.url.0;
        self.check_no_loop(&path.key("url"), &file.url);
        if url.scheme() != "http" {
            self.error(&path.key("url"), "a proxy that is itself reached over TLS is not supported")
                .help("write `http`: inside the tunnel, TLS to the upstream is unchanged");
        }
        let authorization = file.credentials_file.as_ref().and_then(|credentials| {
            let path = path.key("credentials_file");
            if !self.plain_http.allows(url) {
                let host = url.host_str().unwrap_or_default();
                self.error(&path, "the credentials would cross the network in the clear")
                    .help(format!("accept it with allow_plain_http: [{host}]"));
            }
            let credentials = self.secret(&path, credentials)?;
            if !credentials.expose().contains(':') {
                self.error(&path, "the content of the file is not `user:password` (RFC 7617 §2)");
            }
            Some(EgressProxy::basic(&credentials))
        });
        Some(Arc::new(EgressProxy {
            host: url.host_str().unwrap_or_default().to_ascii_lowercase().into(),
            port: url.port_or_known_default().unwrap_or_default(),
            except: file.except.iter().map(|exception| exception.0.clone()).collect(),
            authorization,
        }))
    }

    /// The egress proxy of a route or server, which may say that it has none.
    pub(super) fn egress_proxy_of(&self, rule: Option<&EgressProxyRuleFile>) -> Option<Arc<EgressProxy>> {
        match rule {
            Some(EgressProxyRuleFile::None) => None,
            None => self.egress_proxy.clone(),
        }
    }

    pub(super) fn egress(&mut self, file: &EgressFile) -> EgressRules {
        let ranges = |networks: &[Network]| networks.iter().map(|network| network.0).collect();
        let rules = EgressRules { refuse: ranges(&file.refuse), allow: ranges(&file.allow) };
        let path = KeyPath::default().key("egress").key("allow");
        for (index, range) in rules.allow.iter().enumerate() {
            if rules.refuse.contains(range) {
                self.error(&path.index(index), format!("{range} is in `refuse` as well"))
                    .help("of two ranges the narrower one decides; remove one of these");
            } else if !rules.refuse.iter().any(|wider| wider.contains(range)) {
                self.warn(&path.index(index), format!("nothing refuses {range}, so allowing it has no effect"))
                    .help("`allow` is for exceptions from `refuse`");
            }
        }
        rules
    }
}
