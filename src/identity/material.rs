//! Checks an update of a source before readers see it. It is accepted whole or not at all.
use super::snapshot::{Authorities, CheckedUpdate, Svid};
use super::{Leaf, LeafProblem, SpiffeId, TrustDomain};
use crate::clock::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// One complete update as a source delivered it, not checked yet.
pub(crate) struct Material {
    /// The certificates as concatenated DER, the leaf first.
    pub(crate) chain: Vec<u8>,
    /// The private key as PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// The authorities of the workload's own trust domain as concatenated DER.
    pub(crate) bundle: Vec<u8>,
    /// The authorities of each federated trust domain, as concatenated DER.
    pub(crate) federated: Vec<(String, Vec<u8>)>,
    /// The SPIFFE ID that the source names; the certificate must have the same.
    pub(crate) named: Option<String>,
    /// The operator's label for the SVID.
    pub(crate) hint: Option<String>,
}

/// Why an update is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UpdateRefused {
    #[error("the message is not a valid Workload API message: {0}")]
    Undecodable(String),
    #[error("the message has no {0}")]
    Missing(&'static str),
    #[error("none of its SVIDs has the hint {wanted:?} (identity.workload_api.hint); it offers {offered}")]
    Hint { wanted: String, offered: String },
    #[error("the certificate or its key cannot be used: {0}")]
    Unusable(String),
    #[error("the leaf certificate is not an X.509-SVID: {0}")]
    Leaf(#[from] LeafProblem),
    #[error("the message names {named} but the certificate is for {certificate}")]
    OtherId { named: String, certificate: String },
    #[error("the certificate of {id} expired at {at}")]
    Expired { id: String, at: Timestamp },
    #[error("the private key does not belong to the certificate of {0}")]
    KeyMismatch(String),
    #[error("the trust bundle of {domain} cannot be used: {why}")]
    Bundle { domain: String, why: String },
}

/// Checks one update against every rule and against the clock.
pub(super) fn check(material: Material, now: Timestamp) -> Result<CheckedUpdate, UpdateRefused> {
    // The library checks the DER, the PKCS#8 form, the chain's length and the intermediates.
    let parsed = spiffe::X509Svid::parse_from_der(&material.chain, &material.key)
        .map_err(|error| unusable(&material.chain, &error))?;
    let leaf = Leaf::from_der(parsed.leaf().as_bytes())?;
    let id = leaf.id.to_string();
    if let Some(named) = material.named.filter(|named| *named != id) {
        return Err(UpdateRefused::OtherId { named, certificate: id });
    }
    if now >= leaf.not_after {
        return Err(UpdateRefused::Expired { id, at: leaf.not_after });
    }
    let chain: Vec<_> = parsed.cert_chain().iter().map(|der| CertificateDer::from(der.as_bytes().to_vec())).collect();
    let certified = certified_key(chain, &material.key, &id)?;
    let bundles = bundles(&leaf.id, &material.bundle, &material.federated)?;
    Ok(CheckedUpdate { svid: Svid::new(leaf, certified, material.key, material.hint), bundles })
}

/// Explains why the library refused an update: by our own reason, if there is one, because it is
/// more specific.
fn unusable(chain: &[u8], error: &spiffe::X509SvidError) -> UpdateRefused {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let leaf = X509Certificate::from_der(chain).ok().map(|(rest, _)| &chain[..chain.len() - rest.len()]);
    match leaf.map(Leaf::from_der) {
        Some(Err(problem)) => UpdateRefused::Leaf(problem),
        _ => UpdateRefused::Unusable(error.to_string()),
    }
}

fn certified_key(chain: Vec<CertificateDer<'static>>, key: &[u8], id: &str) -> Result<CertifiedKey, UpdateRefused> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let key =
        provider().key_provider.load_private_key(der).map_err(|error| UpdateRefused::Unusable(error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(UpdateRefused::KeyMismatch(id.to_owned())),
        Err(error) => Err(UpdateRefused::Unusable(error.to_string())),
    }
}

/// Returns the one crypto provider of this binary. The process-wide default is not used, because
/// any library could set it.
pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

fn bundles(
    id: &SpiffeId,
    own: &[u8],
    federated: &[(String, Vec<u8>)],
) -> Result<BTreeMap<TrustDomain, Authorities>, UpdateRefused> {
    let mut bundles = BTreeMap::new();
    for (name, der) in federated {
        let refused = |why: String| UpdateRefused::Bundle { domain: name.clone(), why };
        let domain = TrustDomain::new(name).map_err(|error| refused(error.to_string()))?;
        bundles.insert(domain.clone(), authorities(&domain, der).map_err(refused)?);
    }
    let domain = id.trust_domain();
    let refused = |why: String| UpdateRefused::Bundle { domain: domain.to_string(), why };
    let own = authorities(domain, own).map_err(refused)?;
    if own.certificates.is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    // Inserted last, so that a federated entry under our own name cannot replace our own bundle.
    bundles.insert(domain.clone(), own);
    Ok(bundles)
}

fn authorities(domain: &TrustDomain, der: &[u8]) -> Result<Authorities, String> {
    let bundle = spiffe::X509Bundle::parse_from_der(domain.clone(), der).map_err(|error| error.to_string())?;
    let certificates = bundle.authorities().iter().map(|der| CertificateDer::from(der.as_bytes().to_vec())).collect();
    Authorities::new(certificates).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::identity::testing::{Authority, LeafShape, material};
    use std::time::Duration;

    const ID: &str = "spiffe://example.org/agent";

    fn good() -> (Authority, Material) {
        let authority = Authority::new("example.org");
        let material = material(&authority, ID);
        (authority, material)
    }

    fn refusal(change: impl FnOnce(&Authority, &mut Material)) -> UpdateRefused {
        let (authority, mut material) = good();
        change(&authority, &mut material);
        check(material, Clock::system().now()).expect_err("refused")
    }

    #[test]
    fn good_update_is_accepted_whole() {
        let (authority, mut material) = good();
        let other = Authority::new("partner.example");
        material.federated = vec![("spiffe://partner.example".into(), other.bundle())];
        let CheckedUpdate { svid, bundles } = check(material, Clock::system().now()).expect("good");
        assert_eq!(svid.id.to_string(), ID);
        assert_eq!(bundles.len(), 2);
        let own = &bundles[&TrustDomain::new("example.org").expect("name")];
        assert_eq!(own.certificates[0].as_ref(), authority.bundle());
    }

    #[test]
    fn bad_update_is_refused_with_its_reason() {
        let other_key = |material: &mut Material| {
            material.key = Zeroizing::new(rcgen::KeyPair::generate().expect("key").serialize_der());
        };
        assert!(matches!(refusal(|_, material| other_key(material)), UpdateRefused::KeyMismatch(id) if id == ID));
        let named = refusal(|_, material| material.named = Some("spiffe://example.org/other".into()));
        assert!(matches!(named, UpdateRefused::OtherId { .. }), "{named}");
        let shaped = |change: &dyn Fn(&mut LeafShape)| {
            refusal(|authority, material| {
                let mut shape = LeafShape::new(ID);
                change(&mut shape);
                let issued = authority.issue(shape);
                material.chain = issued.chain_der();
                material.key = issued.key;
            })
        };
        assert_eq!(shaped(&|shape| shape.ca = true), UpdateRefused::Leaf(LeafProblem::Ca));
        let two = shaped(&|shape| shape.uris.push("spiffe://example.org/b".into()));
        assert_eq!(two, UpdateRefused::Leaf(LeafProblem::ManyUris(2)));
        let expired = shaped(&|shape| shape.not_after = Clock::system().now().minus(Duration::from_secs(1)));
        assert!(matches!(expired, UpdateRefused::Expired { .. }), "{expired}");
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(refusal(|_, material| material.chain = b"rubbish".to_vec()), UpdateRefused::Unusable(_)));
        assert!(matches!(refusal(|_, material| material.chain.clear()), UpdateRefused::Unusable(_)));
        assert!(matches!(refusal(|_, material| material.chain.push(0)), UpdateRefused::Unusable(_)));
        assert!(matches!(refusal(|_, material| material.key.truncate(9)), UpdateRefused::Unusable(_)));
        assert!(matches!(refusal(|_, material| material.bundle.clear()), UpdateRefused::Bundle { .. }));
        assert!(matches!(refusal(|_, material| material.bundle.truncate(9)), UpdateRefused::Bundle { .. }));
        let federated = |name: &str, der: &[u8]| {
            let entry = (name.to_owned(), der.to_vec());
            refusal(|_, material| material.federated.push(entry))
        };
        assert!(matches!(federated("spiffe://partner.example", b"x"), UpdateRefused::Bundle { .. }));
        assert!(matches!(federated("not a domain", b""), UpdateRefused::Bundle { .. }));
    }

    proptest::proptest! {
        /// Damaged material that is accepted has the same SPIFFE ID and bundles as the original.
        #[test]
        fn damaged_material_does_not_panic(at in 0_usize..2000, byte: u8, cut in 0_usize..2000, part in 0..3) {
            static GOOD: std::sync::LazyLock<Material> = std::sync::LazyLock::new(|| good().1);
            let damage = |from: &[u8]| {
                let mut bytes = from.to_vec();
                let at = at % bytes.len();
                bytes[at] = byte;
                bytes.truncate(cut.max(1));
                bytes
            };
            let material = Material {
                chain: if part == 0 { damage(&GOOD.chain) } else { GOOD.chain.clone() },
                key: if part == 1 { Zeroizing::new(damage(&GOOD.key)) } else { GOOD.key.clone() },
                bundle: if part == 2 { damage(&GOOD.bundle) } else { GOOD.bundle.clone() },
                federated: Vec::new(),
                named: GOOD.named.clone(),
                hint: None,
            };
            if let Ok(CheckedUpdate { svid, bundles }) = check(material, Clock::system().now()) {
                proptest::prop_assert_eq!(svid.id.to_string(), ID);
                proptest::prop_assert_eq!(bundles.len(), 1);
            }
        }
    }

    #[test]
    fn federated_entry_does_not_replace_our_own_bundle() {
        let (authority, mut material) = good();
        material.federated.push(("spiffe://example.org".into(), Authority::new("example.org").bundle()));
        let bundles = check(material, Clock::system().now()).expect("good").bundles;
        assert_eq!(
            bundles[&TrustDomain::new("example.org").expect("name")].certificates[0].as_ref(),
            authority.bundle()
        );
    }

    #[test]
    fn empty_federated_bundle_has_no_authorities() {
        let (_, mut material) = good();
        material.federated.push(("spiffe://partner.example".into(), Vec::new()));
        let bundles = check(material, Clock::system().now()).expect("good").bundles;
        assert!(bundles[&TrustDomain::new("partner.example").expect("name")].certificates.is_empty());
    }
}
