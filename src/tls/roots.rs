//! The certificate authorities of the public web, or of a file.
use super::certificate::certificate_problem;
use aws_lc_rs::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use std::fmt;
use std::sync::Arc;

/// A set of trusted authorities. Clones share it.
#[derive(Clone)]
pub struct Roots {
    pub(super) store: Arc<RootCertStore>,
    /// SHA-256 of the set. It is computed once, because the machine's authorities have 100 kB.
    pub(super) digest: [u8; 32],
}

impl From<RootCertStore> for Roots {
    fn from(store: RootCertStore) -> Self {
        let mut context = Context::new(&SHA256);
        // Without `..`, so that a new version of the type cannot add something that is left out.
        for TrustAnchor { subject, subject_public_key_info, name_constraints } in &store.roots {
            let constraints = name_constraints.as_ref().map_or(&[][..], |constraints| &constraints[..]);
            for part in [&subject[..], subject_public_key_info, constraints] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part);
            }
        }
        let digest = context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        Self { store: Arc::new(store), digest }
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} authorities", self.store.len())
    }
}

/// Why the authorities of a PEM text cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// The text is not PEM.
    #[error("it is not PEM: {0}")]
    NotPem(String),
    /// The text contains no CERTIFICATE section.
    #[error("it contains no CERTIFICATE section")]
    Empty,
    /// A certificate cannot be an authority.
    #[error("certificate {number} in it cannot be used as an authority: {why}")]
    Unusable {
        /// The number of the certificate in the text, counted from one.
        number: usize,
        /// The reason why it cannot be used.
        why: String,
    },
}

/// Returns the machine's authorities, or Mozilla's compiled-in ones if the machine has none, as in
/// an image without files.
pub fn web_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!("tls: some of the machine's certificate authorities cannot be read: {error}");
    }
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    }
    roots
}

/// Reads the authorities of a `ca_file`: all of its certificates, or an error.
///
/// # Errors
/// The text is not PEM, is empty, or contains a certificate that cannot be an authority.
pub fn roots_from_pem(pem: &[u8]) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let certificate = certificate.map_err(|error| RootsError::NotPem(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| RootsError::Unusable { number: index + 1, why: certificate_problem(&error) })?;
    }
    if roots.is_empty() { Err(RootsError::Empty) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{Authority, pem};
    use crate::tls::{PeerIds, ServerTrust};

    #[test]
    fn web_roots_are_never_empty() {
        assert!(!web_roots().is_empty());
    }

    #[test]
    fn digest_differs_when_trust_differs() {
        let digest = |pem: &str| ServerTrust::WebPki(roots_from_pem(pem.as_bytes()).expect("roots").into()).digest();
        let authority = || {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = rcgen::KeyPair::generate().expect("a key");
            pem("CERTIFICATE", params.self_signed(&key).expect("a certificate").der())
        };
        let [one, other] = [authority(), authority()];
        assert_eq!(digest(&one), digest(&one), "read twice");
        assert_ne!(digest(&one), digest(&other), "another key of the same name");
        assert_ne!(digest(&one), digest(&(one.clone() + &other)));
        let pinned = ServerTrust::Spiffe(Arc::new(PeerIds::new(["spiffe://example.org/as"]).expect("an ID")));
        assert_ne!(digest(&one), pinned.digest());
    }

    #[test]
    fn file_is_used_whole_or_not_at_all() {
        let one = || pem("CERTIFICATE", &Authority::new("example.org").bundle());
        assert_eq!(roots_from_pem((one() + &one()).as_bytes()).expect("two").len(), 2);
        assert_eq!(roots_from_pem(b"").err(), Some(RootsError::Empty));
        assert_eq!(roots_from_pem(pem("PRIVATE KEY", b"x").as_bytes()).err(), Some(RootsError::Empty));
        let second = one() + &pem("CERTIFICATE", b"garbage");
        assert!(matches!(roots_from_pem(second.as_bytes()), Err(RootsError::Unusable { number: 2, .. })));
        assert!(matches!(roots_from_pem(&one().as_bytes()[..80]), Err(RootsError::NotPem(_))));
    }
}
