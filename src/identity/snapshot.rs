//! The identity at one moment: SVID, key and every bundle together, immutable.
use super::{Leaf, SpiffeId, TrustDomain};
use crate::clock::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// An X.509-SVID and its key. Every value of this type has passed the checks of [`Leaf`], and its
/// key belongs to its certificate.
pub struct Svid {
    /// The SPIFFE ID of the workload.
    pub id: SpiffeId,
    /// The leaf certificate, then its intermediates; no trust anchor.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's `notBefore`. It is not enforced, because a clock that is slightly slow must not
    /// lock the workload out.
    pub not_before: Timestamp,
    /// The leaf's `notAfter`. The SVID is not used at or after this instant.
    pub not_after: Timestamp,
    /// The operator's label for this SVID, if the Workload API sent one.
    pub hint: Option<String>,
    /// The chain and the key in rustls' form, built once.
    pub certified: Arc<CertifiedKey>,
    key_pkcs8: Zeroizing<Vec<u8>>,
}

/// The certificates that may sign X.509-SVIDs of one trust domain. If there are none, every peer of
/// that domain is refused.
#[derive(Debug)]
pub struct Authorities {
    /// The certificates as DER.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The certificates in rustls' form, built once.
    pub roots: Arc<RootCertStore>,
}

/// An update of a source that has passed every check.
#[derive(Debug)]
pub(super) struct CheckedUpdate {
    pub(super) svid: Svid,
    /// The authorities of our own trust domain, and of those that it is federated with.
    pub(super) bundles: BTreeMap<TrustDomain, Authorities>,
}

/// The whole identity at one moment. A reader that holds one never sees the key of one update with
/// the bundle of another.
#[derive(Debug)]
pub struct Snapshot {
    /// A number that grows with every change, including withdrawals.
    pub revision: u64,
    /// The SVID that is used, the only one even if the source offers several.
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

    /// Returns the private key as PKCS#8 DER. Callers sign with it and must not store it.
    pub fn key_pkcs8(&self) -> &[u8] {
        &self.key_pkcs8
    }

    /// Whether the SVID can be used at `now`.
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
    /// Fails for a certificate that cannot be a trust anchor.
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

    /// Returns the workload's own trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.svid.id.trust_domain()
    }

    /// Returns the authorities of one trust domain, or `None` if it is neither the workload's own
    /// nor federated. Bundles are never merged.
    pub fn authorities(&self, trust_domain: &TrustDomain) -> Option<&Authorities> {
        self.bundles.get(trust_domain)
    }

    /// Returns the federated trust domains whose bundles are held.
    pub fn federated(&self) -> impl Iterator<Item = &TrustDomain> {
        self.bundles.keys().filter(|domain| *domain != self.trust_domain())
    }

    /// Whether an update contains nothing new.
    pub(super) fn same_material(&self, update: &CheckedUpdate) -> bool {
        // Naming every field makes the compiler reject one that is not considered: a change of it
        // alone would not reach the readers.
        let CheckedUpdate { svid, bundles } = update;
        // The leaf determines the ID and the dates, and the key belongs to it.
        let Svid { chain, hint, id: _, not_before: _, not_after: _, certified: _, key_pkcs8: _ } = svid;
        let same_authorities = |ours: &Authorities, theirs: &Authorities| {
            // `roots` is made from the certificates.
            let Authorities { certificates, roots: _ } = theirs;
            ours.certificates == *certificates
        };
        self.svid.chain == *chain
            && self.svid.hint == *hint
            && self.bundles.len() == bundles.len()
            && self
                .bundles
                .iter()
                .zip(bundles)
                .all(|((one, ours), (other, theirs))| one == other && same_authorities(ours, theirs))
    }
}
