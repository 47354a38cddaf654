//! What is wrong with a certificate, in words.
use rustls::{CertificateError, Error};
use webpki::Error as PathError;

/// Describes what is wrong with a certificate, or with its path to an authority (RFC 5280 §6). The
/// subject of the sentence is the certificate.
pub(super) fn certificate_problem(error: &Error) -> String {
    let Error::InvalidCertificate(problem) = error else { return error.to_string() };
    let words = match problem {
        CertificateError::BadEncoding => "it cannot be read as a certificate",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: compare the clocks"
        }
        CertificateError::Revoked => "it has been revoked",
        CertificateError::UnhandledCriticalExtension => "it has a critical extension that is not supported",
        CertificateError::UnknownIssuer => "it is not signed by a trusted authority",
        CertificateError::BadSignature => "its signature is invalid",
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
            "it, or an authority's above it, is signed with an algorithm that is not supported"
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it, or an authority's above it, is signed with an algorithm that does not fit the signer's key"
        }
        CertificateError::NotValidForName => "it is for another name",
        CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => {
            return format!("it has no subjectAltName, and so is not for {}", expected.to_str());
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented: Vec<&str> = presented.iter().map(|name| without_kind(name)).collect();
            return format!("it is for {}, not for {}", presented.join(", "), expected.to_str());
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it must not be used by a server (extended key usage)"
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<PathError>() {
            Some(problem) => return path_problem(problem),
            None => return other.0.to_string(),
        },
        other => return other.to_string(),
    };
    words.to_owned()
}

/// Takes the name out of `DnsName("api.example.com")`.
fn without_kind(name: &str) -> &str {
    name.split_once("(\"").and_then(|(_, rest)| rest.strip_suffix("\")")).unwrap_or(name)
}

/// The problems that rustls has no variants for.
fn path_problem(problem: &PathError) -> String {
    let words = match problem {
        PathError::CaUsedAsEndEntity => {
            "it is marked as an authority's (basicConstraints CA:TRUE, which `openssl req -x509` sets), and a server \
             must not present such a one: issue one with CA:FALSE"
        }
        PathError::EndEntityUsedAsCa => {
            "it is signed by a certificate that is not an authority's (basicConstraints CA:TRUE is missing)"
        }
        PathError::PathLenConstraintViolated => {
            "there are more authorities between it and the trusted one than one of them allows (pathLenConstraint)"
        }
        PathError::NameConstraintViolation => "an authority above it must not sign for its names (nameConstraints)",
        PathError::MalformedNameConstraint | PathError::InvalidNetworkMaskConstraint => {
            "the nameConstraints of an authority above it are malformed"
        }
        PathError::EmptyEkuExtension => "its extended key usage is empty",
        PathError::ExtensionValueInvalid | PathError::MalformedExtensions => "its extensions are malformed",
        PathError::MalformedDnsIdentifier => "one of its names is not a DNS name",
        PathError::InvalidSerialNumber => "its serial number is invalid",
        PathError::SignatureAlgorithmMismatch => "it names two different signature algorithms",
        PathError::UnsupportedCertVersion => "it is not an X.509 v3 certificate",
        PathError::UnsupportedCriticalExtension => "it has a critical extension that is not supported",
        PathError::UnsupportedNameType => "one of its names is of a kind that is not supported",
        PathError::MaximumNameConstraintComparisonsExceeded
        | PathError::MaximumPathBuildCallsExceeded
        | PathError::MaximumPathDepthExceeded
        | PathError::MaximumSignatureChecksExceeded => {
            "the server sent so many certificates with it that they are not all searched"
        }
        other => return format!("its verification failed: {other:?}"),
    };
    words.to_owned()
}
