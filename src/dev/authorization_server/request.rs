//! Token requests, and the URNs in them.
use super::record::Form;
use rustls::pki_types::CertificateDer;

pub(super) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub(super) const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
pub(super) const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";
/// The `typ` of an ID-JAG (ID-JAG §3.1).
pub(super) const ID_JAG_TYP: &str = "oauth-id-jag+jwt";

/// A token request that has been read but not checked.
pub(super) struct TokenRequest {
    pub(super) form: Form,
    pub(super) authorization: Option<String>,
    pub(super) certificates: Vec<CertificateDer<'static>>,
}
