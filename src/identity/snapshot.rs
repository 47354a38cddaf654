//! What the process holds at one moment: SVID, key and every bundle together, immutable.
use super::{Leaf, SpiffeId, TrustDomain};
use crate::clock::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// An X.509-SVID and its key. Every value that exists has passed the checks of [`Leaf`], and its key fits its certificate.
pub struct Svid {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    /// The leaf first, then its intermediates; no trust anchor.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's `notBefore`. Not held against it: a clock that is a little slow must not lock us out.
    pub not_before: Timestamp,
    /// The leaf's `notAfter`: not used at or after this instant.
    pub not_after: Timestamp,
    /// The operator's label for this SVID, where the Workload API gave one.
    pub hint: Option<String>,
    /// Chain and key as rustls wants them, built once.
    pub certified: Arc<CertifiedKey>,
    key_pkcs8: Zeroizing<Vec<u8>>,
}

/// The certificates that may sign X.509-SVIDs of one trust domain. Empty ones exist: they make every peer of it refused.
#[derive(Debug)]
pub struct Authorities {
    /// As DER.
    pub certificates: Vec<CertificateDer<'static>>,
    /// As rustls wants them, built once.
    pub roots: Arc<RootCertStore>,
}

/// An update of a source that has passed every check.
#[derive(Debug)]
pub(super) struct CheckedUpdate {
    pub(super) svid: Svid,
    /// The authorities of our own trust domain, and of those that it is federated with.
    pub(super) bundles: BTreeMap<TrustDomain, Authorities>,
}

/// Everything at one moment. A reader that holds one never sees a key of one update with a bundle of another.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows with every change, also across withdrawals.
    pub revision: u64,
    /// The chosen SVID.
    pub svid: Svid,
    bundles: BTreeMap<TrustDomain, Authorities>,
}

impl Svid {
    pub(super) fn new(
        leaf: Leaf,
        certified: CertifiedKey,
        key_pkcs8: Zeroizing<Vec<u8>>,
        hint: Option<String>,
    ) -> Self {
        Self {
            id: leaf.id,
            chain: certified.cert.clone(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            hint,
            certified: Arc::new(certified),
            key_pkcs8,
        }
    }

    /// The private key as PKCS#8 DER. Callers sign with it and put it nowhere.
    pub fn key_pkcs8(&self) -> &[u8] {
        &self.key_pkcs8
    }

    /// Whether it may be used at `now`.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        now < self.not_after
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Svid")
            .field("id", &self.id.to_string())
            .field("not_after", &self.not_after)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

impl Authorities {
    /// UpdateRefused: a certificate that cannot be a trust anchor.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone())?;
        }
        Ok(Self { certificates, roots: Arc::new(roots) })
    }
}

impl Snapshot {
    pub(super) fn new(revision: u64, update: CheckedUpdate) -> Self {
        Self { revision, svid: update.svid, bundles: update.bundles }
    }

    /// Our own trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.svid.id.trust_domain()
    }

    /// The authorities of one trust domain; `None` if it is neither ours nor federated. Bundles are never merged.
    pub fn authorities(&self, trust_domain: &TrustDomain) -> Option<&Authorities> {
        self.bundles.get(trust_domain)
    }

    /// The other trust domains whose bundles came along.
    pub fn federated(&self) -> impl Iterator<Item = &TrustDomain> {
        self.bundles.keys().filter(|domain| *domain != self.trust_domain())
    }

    /// Whether an update brought nothing new.
    pub(super) fn same_material(&self, update: &CheckedUpdate) -> bool {
        self.svid.chain == update.svid.chain
            && self.svid.hint == update.svid.hint
            && self.bundles.len() == update.bundles.len()
            && self
                .bundles
                .iter()
                .zip(&update.bundles)
                .all(|((one, ours), (other, theirs))| one == other && ours.certificates == theirs.certificates)
    }
}
