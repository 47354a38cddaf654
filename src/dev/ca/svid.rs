//! X.509-SVIDs, and the deliberate flaws that tests need.
use super::KeyType;
use crate::clock::Timestamp;
use anyhow::Context;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A request to issue an SVID.
#[derive(Clone, Debug)]
pub struct SvidRequest {
    /// The SPIFFE ID, as in `spiffe://example.org/agent`.
    pub id: String,
    /// The time from now to `notAfter`. Certificates have whole seconds.
    pub ttl: Duration,
    /// The kind of key.
    pub key_type: KeyType,
    /// The operator's hint (`X509SVID.hint` of the Workload API); empty for none.
    pub hint: String,
    /// A deliberate flaw.
    pub flaw: Option<Flaw>,
}

/// A deliberate flaw, which violates the X.509-SVID standard, §2 to §5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The time `notAfter` has passed.
    Expired,
    /// `notBefore` is an hour away.
    NotYetValid,
    /// The leaf has `cA=TRUE`.
    CaLeaf,
    /// The leaf has two URI SANs.
    TwoUriSans,
    /// The leaf has only a DNS SAN.
    NoUriSan,
    /// The private key does not belong to the certificate.
    KeyMismatch,
    /// The certificate has this SPIFFE ID, and the answer names the requested one.
    OtherId(String),
}

impl SvidRequest {
    /// Requests a P-256 SVID for one hour, without a hint.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ttl: Duration::from_secs(3600),
            key_type: KeyType::P256,
            hint: String::new(),
            flaw: None,
        }
    }

    /// Sets the lifetime.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the kind of key.
    pub fn key_type(mut self, key_type: KeyType) -> Self {
        self.key_type = key_type;
        self
    }

    /// Sets the hint.
    pub fn hint(mut self, hint: &str) -> Self {
        hint.clone_into(&mut self.hint);
        self
    }

    /// Sets a flaw.
    pub fn flaw(mut self, flaw: Flaw) -> Self {
        self.flaw = Some(flaw);
        self
    }
}

/// An issued SVID with its private key.
#[derive(Clone)]
pub struct Svid {
    /// The SPIFFE ID that was requested.
    pub id: String,
    /// The operator's hint; empty for none.
    pub hint: String,
    /// The certificates in DER, leaf first, without the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key as PKCS#8 DER.
    pub key: Vec<u8>,
    /// The time at which the leaf expires.
    pub not_after: Timestamp,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Svid {
    /// The chain as the Workload API sends it: concatenated DER certificates.
    pub fn chain_der(&self) -> Vec<u8> {
        self.chain.iter().flat_map(|certificate| certificate.as_ref().to_vec()).collect()
    }

    /// The chain as `CERTIFICATE` blocks.
    pub fn chain_pem(&self) -> String {
        pem(&self.chain)
    }

    /// The key as a `PRIVATE KEY` block.
    pub fn key_pem(&self) -> String {
        pem_block("PRIVATE KEY", &self.key)
    }

    /// The chain and the key for a rustls server or client.
    ///
    /// # Errors
    /// The key does not belong to the certificate ([`Flaw::KeyMismatch`]).
    pub fn certified_key(&self) -> anyhow::Result<Arc<CertifiedKey>> {
        certified_key(self.chain.clone(), &self.key)
    }
}

pub(super) fn certified_key(chain: Vec<CertificateDer<'static>>, key: &[u8]) -> anyhow::Result<Arc<CertifiedKey>> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = PrivatePkcs8KeyDer::from(key.to_vec()).into();
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider).context("the key does not belong to the certificate")?))
}

/// Encodes certificates as one PEM text.
pub(super) fn pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| pem_block("CERTIFICATE", certificate)).collect()
}

fn pem_block(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}
