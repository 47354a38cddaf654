//! What a SPIRE server would hold: the X.509 and the JWT authorities of a trust domain; and a plain CA for server certificates.
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

/// Everything that one trust domain signs with. Clones share the authorities.
#[derive(Clone, Debug)]
pub struct TrustDomain {
    name: String,
    /// Signs X.509-SVIDs.
    pub x509: X509Authority,
    /// Signs JWT-SVIDs.
    pub jwt: JwtAuthority,
}

impl TrustDomain {
    /// A trust domain with one fresh P-256 authority and one fresh ES256 key. `name` is the bare name, as in `example.org`.
    pub fn new(name: &str, clock: &Clock) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            x509: X509Authority::new(name, clock)?,
            jwt: JwtAuthority::new(JwtAlgorithm::Es256, clock)?,
        })
    }

    /// The bare name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The trust domain as a SPIFFE ID, the key of bundle maps: `spiffe://example.org`.
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://{}", self.name)
    }

    /// The SPIFFE ID of a workload: `path` without the leading slash.
    pub fn workload(&self, path: &str) -> String {
        format!("spiffe://{}/{path}", self.name)
    }
}
