//! An X.509-SVID, and the ways in which a test wants it to be wrong.
use super::KeyType;
use crate::clock::Timestamp;
use anyhow::Context;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What to issue.
#[derive(Clone, Debug)]
pub struct SvidRequest {
    /// The SPIFFE ID, `spiffe://example.org/agent`.
    pub id: String,
    /// From now to `notAfter`; certificates have whole seconds.
    pub ttl: Duration,
    /// The kind of the leaf's key.
    pub key_type: KeyType,
    /// The operator's hint (Workload API, `X509SVID.hint`); empty for none.
    pub hint: String,
    /// What is wrong with it.
    pub flaw: Option<Flaw>,
}

/// A deliberate mistake. The broken rule is in the X509-SVID standard, §2-5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// `notAfter` has passed.
    Expired,
    /// `notBefore` is an hour away.
    NotYetValid,
    /// The leaf says `cA=TRUE`.
    CaLeaf,
    /// Two URI SANs.
    TwoUriSans,
    /// Only a DNS SAN.
    NoUriSan,
    /// The private key is not the certificate's.
    KeyMismatch,
    /// The certificate has this SPIFFE ID, the answer says the requested one.
    OtherId(String),
}

impl SvidRequest {
    /// A P-256 SVID for one hour, without a hint.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ttl: Duration::from_secs(3600),
            key_type: KeyType::P256,
            hint: String::new(),
            flaw: None,
        }
    }

    /// The same with another lifetime.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The same with another kind of key.
    pub fn key_type(mut self, key_type: KeyType) -> Self {
        self.key_type = key_type;
        self
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: &str) -> Self {
        hint.clone_into(&mut self.hint);
        self
    }

    /// The same, broken.
    pub fn flaw(mut self, flaw: Flaw) -> Self {
        self.flaw = Some(flaw);
        self
    }
}

/// An issued SVID with its private key.
#[derive(Clone)]
pub struct Svid {
    /// The SPIFFE ID that was asked for.
    pub id: String,
    /// The operator's hint; empty for none.
    pub hint: String,
    /// DER, leaf first, without the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8 DER.
    pub key: Vec<u8>,
    /// When the leaf expires.
    pub not_after: Timestamp,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Svid {
    /// The chain as the Workload API sends it: DER certificates one after the other.
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

    /// For a rustls server or client. Errors if the key is not the certificate's ([`Flaw::KeyMismatch`]).
    pub fn certified_key(&self) -> anyhow::Result<Arc<CertifiedKey>> {
        certified_key(self.chain.clone(), &self.key)
    }
}

pub(super) fn certified_key(chain: Vec<CertificateDer<'static>>, key: &[u8]) -> anyhow::Result<Arc<CertifiedKey>> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = PrivatePkcs8KeyDer::from(key.to_vec()).into();
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider).context("certificate and key do not fit")?))
}

/// Certificates as one PEM text.
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
