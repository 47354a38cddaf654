//! Certificate authorities of the ordinary web, or of a file.
use super::error::certificate_problem;
use aws_lc_rs::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::sync::Arc;

/// Authorities to trust. Clones share them.
#[derive(Clone)]
pub struct Roots {
    pub(super) store: Arc<RootCertStore>,
    /// Taken once: the machine's are 100 kB.
    pub(super) digest: [u8; 32],
}

impl From<RootCertStore> for Roots {
    fn from(store: RootCertStore) -> Self {
        let mut context = Context::new(&SHA256);
        for root in &store.roots {
            let constraints = root.name_constraints.as_ref().map_or(&[][..], |constraints| &constraints[..]);
            for part in [&root.subject[..], &root.subject_public_key_info, constraints] {
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

/// Why a PEM text holds no authorities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// It is not PEM.
    #[error("it is not PEM: {0}")]
    NotPem(String),
    /// There is no CERTIFICATE section.
    #[error("it holds no CERTIFICATE section")]
    Empty,
    /// One cannot be trusted as an authority.
    #[error("certificate {number} in it cannot be used as an authority: {why}")]
    Unusable {
        /// Counted from one.
        number: usize,
        /// What is the matter.
        why: String,
    },
}

/// The machine's authorities; where it has none, as in an image without any files, Mozilla's as compiled in.
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

/// The authorities of a `ca_file`: all of its certificates, or an error.
///
/// # Errors
/// [`RootsError`].
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
    fn there_are_always_web_roots() {
        assert!(!web_roots().is_empty());
    }

    #[test]
    fn a_digest_is_of_who_is_trusted() {
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
    fn a_file_is_used_whole_or_not_at_all() {
        let one = || pem("CERTIFICATE", &Authority::new("example.org").bundle());
        assert_eq!(roots_from_pem((one() + &one()).as_bytes()).expect("two").len(), 2);
        assert_eq!(roots_from_pem(b"").err(), Some(RootsError::Empty));
        assert_eq!(roots_from_pem(pem("PRIVATE KEY", b"x").as_bytes()).err(), Some(RootsError::Empty));
        let second = one() + &pem("CERTIFICATE", b"rubbish");
        assert!(matches!(roots_from_pem(second.as_bytes()), Err(RootsError::Unusable { number: 2, .. })));
        assert!(matches!(roots_from_pem(&one().as_bytes()[..80]), Err(RootsError::NotPem(_))));
    }
}
