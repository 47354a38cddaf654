//! The rules that make a certificate an X.509-SVID, for ours and for a peer's (SPIFFE X.509-SVID §2
//! to §4).
use super::SpiffeId;
use crate::clock::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// A leaf certificate that satisfies every rule of an X.509-SVID. Who signed it is checked
/// elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The SPIFFE ID: its one URI SAN.
    pub id: SpiffeId,
    /// The certificate's `notBefore`.
    pub not_before: Timestamp,
    /// The certificate's `notAfter`.
    pub not_after: Timestamp,
}

/// The rule that a certificate breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafProblem {
    /// It is not exactly one DER certificate.
    #[error("it is not a DER certificate")]
    NotDer,
    /// An extension that the rules need cannot be read, or occurs twice.
    #[error("its {0} extension cannot be read")]
    Extension(&'static str),
    /// It has no URI SAN (SPIFFE X.509-SVID §2).
    #[error("it has no URI SAN, so it names no SPIFFE ID")]
    NoUri,
    /// It has more than one URI SAN (SPIFFE X.509-SVID §2).
    #[error("it has {0} URI SANs where an X.509-SVID has exactly one")]
    ManyUris(usize),
    /// Its URI SAN is longer than a SPIFFE ID may be (SPIFFE-ID §2.3).
    #[error("its URI SAN is longer than 2048 bytes")]
    TooLong,
    /// Its URI SAN is not a SPIFFE ID (SPIFFE-ID §2).
    #[error("its URI SAN {uri:?} is not a SPIFFE ID: {why}")]
    NotSpiffe {
        /// The URI as presented.
        uri: String,
        /// The rule that it breaks.
        why: String,
    },
    /// Its scheme or trust domain is not in lower case (SPIFFE-ID §2.1).
    #[error("its SPIFFE ID {0:?} is not in lower case where it must be")]
    UpperCase(String),
    /// Its SPIFFE ID has no path, as only a signing certificate's may (SPIFFE X.509-SVID §3.1).
    #[error("its SPIFFE ID {0} has no path")]
    NoPath(String),
    /// It is a signing certificate (SPIFFE X.509-SVID §4.1).
    #[error("it is a CA certificate")]
    Ca,
    /// Its key usage lacks `digitalSignature` (SPIFFE X.509-SVID §4.3).
    #[error("its key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// Its key usage has `keyCertSign` or `cRLSign` (SPIFFE X.509-SVID §4.3).
    #[error("its key usage has {0}, which only an authority may have")]
    SigningUsage(&'static str),
}

impl LeafProblem {
    /// Returns a stable name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotDer => "not_der",
            Self::Extension(_) => "extension",
            Self::NoUri => "no_uri_san",
            Self::ManyUris(_) => "many_uri_sans",
            Self::TooLong => "too_long",
            Self::NotSpiffe { .. } => "not_spiffe",
            Self::UpperCase(_) => "upper_case",
            Self::NoPath(_) => "no_path",
            Self::Ca => "ca",
            Self::NoDigitalSignature => "no_digital_signature",
            Self::SigningUsage(_) => "signing_usage",
        }
    }
}

/// The longest SPIFFE ID in bytes (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;
/// The tag of a URI in a GeneralName (RFC 5280 §4.2.1.6).
const URI_TAG: u32 = 6;

impl Leaf {
    /// Reads one DER certificate and checks the rules.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn from_der(der: &[u8]) -> Result<Self, LeafProblem> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| LeafProblem::NotDer)?;
        if !rest.is_empty() {
            return Err(LeafProblem::NotDer);
        }
        check_usage(&certificate)?;
        let id = spiffe_id(&certificate)?;
        let validity = certificate.validity();
        Ok(Self {
            id,
            not_before: timestamp(validity.not_before.timestamp()),
            not_after: timestamp(validity.not_after.timestamp()),
        })
    }
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), LeafProblem> {
    let constraints = certificate.basic_constraints().map_err(|_| LeafProblem::Extension("basicConstraints"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(LeafProblem::Ca);
    }
    let usage = certificate.key_usage().map_err(|_| LeafProblem::Extension("keyUsage"))?;
    let Some(usage) = usage.map(|usage| usage.value) else { return Err(LeafProblem::NoDigitalSignature) };
    match usage {
        usage if !usage.digital_signature() => Err(LeafProblem::NoDigitalSignature),
        usage if usage.key_cert_sign() => Err(LeafProblem::SigningUsage("keyCertSign")),
        usage if usage.crl_sign() => Err(LeafProblem::SigningUsage("cRLSign")),
        _ => Ok(()),
    }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, LeafProblem> {
    let names = certificate.subject_alternative_name().map_err(|_| LeafProblem::Extension("subjectAltName"))?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => return Err(LeafProblem::Extension("subjectAltName")),
            _ => {}
        }
    }
    let uri = match uris[..] {
        [] => return Err(LeafProblem::NoUri),
        [uri] => uri,
        _ => return Err(LeafProblem::ManyUris(uris.len())),
    };
    if uri.len() > MAX_ID {
        return Err(LeafProblem::TooLong);
    }
    let id =
        SpiffeId::new(uri).map_err(|error| LeafProblem::NotSpiffe { uri: uri.to_owned(), why: error.to_string() })?;
    if id.to_string() != uri {
        return Err(LeafProblem::UpperCase(uri.to_owned()));
    }
    if id.path().is_empty() {
        return Err(LeafProblem::NoPath(uri.to_owned()));
    }
    Ok(id)
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{Authority, LeafShape};

    fn problem(change: impl FnOnce(&mut LeafShape)) -> Result<Leaf, LeafProblem> {
        let mut shape = LeafShape::new("spiffe://example.org/agent");
        change(&mut shape);
        Leaf::from_der(&Authority::new("example.org").issue(shape).chain[0])
    }

    #[test]
    fn good_leaf_is_accepted() {
        let leaf = problem(|_| {}).expect("good");
        assert_eq!(leaf.id.to_string(), "spiffe://example.org/agent");
        assert!(leaf.not_before < leaf.not_after);
    }

    #[test]
    fn wrong_san_is_refused_with_its_own_reason() {
        let uris = |uris: &[&str]| {
            let uris: Vec<String> = uris.iter().map(|uri| (*uri).to_owned()).collect();
            problem(|shape| shape.uris = uris).expect_err("refused").kind()
        };
        assert_eq!(uris(&[]), "no_uri_san");
        assert_eq!(uris(&["spiffe://example.org/a", "spiffe://example.org/b"]), "many_uri_sans");
        assert_eq!(uris(&["spiffe://example.org/a", "https://example.org/"]), "many_uri_sans");
        assert_eq!(uris(&["spiffe://Example.org/a"]), "upper_case");
        assert_eq!(uris(&["SPIFFE://example.org/a"]), "upper_case");
        assert_eq!(uris(&["spiffe://example.org"]), "no_path");
        assert_eq!(uris(&[&format!("spiffe://example.org/{}", "a".repeat(2048))]), "too_long");
        for uri in [
            "https://example.org/a",
            "spiffe://example.org/a/",
            "spiffe://example.org/a%2fb",
            "spiffe://user@example.org/a",
            "spiffe://example.org:443/a",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://example.org/../a",
            "spiffe:///a",
        ] {
            assert_eq!(uris(&[uri]), "not_spiffe", "{uri}");
        }
    }

    #[test]
    fn wrong_key_usage_is_refused() {
        assert_eq!(problem(|shape| shape.ca = true), Err(LeafProblem::Ca));
        assert_eq!(problem(|shape| shape.usages.clear()), Err(LeafProblem::NoDigitalSignature));
        let with = |usage| problem(|shape| shape.usages.push(usage)).expect_err("refused");
        assert_eq!(with(rcgen::KeyUsagePurpose::KeyCertSign), LeafProblem::SigningUsage("keyCertSign"));
        assert_eq!(with(rcgen::KeyUsagePurpose::CrlSign), LeafProblem::SigningUsage("cRLSign"));
    }

    #[test]
    fn garbage_is_refused() {
        let der = Authority::new("example.org").issue(LeafShape::new("spiffe://example.org/a")).chain[0].clone();
        assert_eq!(Leaf::from_der(b""), Err(LeafProblem::NotDer));
        assert_eq!(Leaf::from_der(&der[..der.len() - 1]), Err(LeafProblem::NotDer));
        let mut trailing = der.to_vec();
        trailing.push(0);
        assert_eq!(Leaf::from_der(&trailing), Err(LeafProblem::NotDer));
    }
}
