//! The authorities that a SPIRE server would hold for a trust domain, for X.509 and JWT, and a
//! plain CA for server certificates.
mod jwt_authority;
mod keys;
mod svid;
mod web;
mod x509_authority;

pub use jwt_authority::JwtAuthority;
pub use keys::{JwtAlgorithm, KeyType};
pub use svid::{Flaw, Svid, SvidRequest};
pub use web::WebCa;
pub use x509_authority::X509Authority;

use crate::clock::Clock;

/// The authorities of one trust domain. Clones share them.
#[derive(Clone, Debug)]
pub struct TrustDomain {
    name: String,
    /// The authorities that sign X.509-SVIDs.
    pub x509: X509Authority,
    /// The keys that sign JWT-SVIDs.
    pub jwt: JwtAuthority,
}

impl TrustDomain {
    /// Creates a trust domain with a new P-256 authority and a new ES256 key. `name` is the bare
    /// name, as in `example.org`.
    pub fn new(name: &str, clock: &Clock) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            x509: X509Authority::new(name, clock)?,
            jwt: JwtAuthority::new(JwtAlgorithm::Es256, clock)?,
        })
    }

    /// The bare name of the trust domain.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SPIFFE ID of the trust domain, which is the key of bundle maps: `spiffe://example.org`.
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://{}", self.name)
    }

    /// The SPIFFE ID of a workload. `path` has no leading slash.
    pub fn workload(&self, path: &str) -> String {
        format!("spiffe://{}/{path}", self.name)
    }
}
