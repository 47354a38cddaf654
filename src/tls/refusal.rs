//! Describes TLS errors for people: which side refused, what was expected, what was presented, and
//! what to do.
use super::certificate::certificate_problem;
use super::error::PeerRefused;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use std::io;

/// Describes a failed handshake or a broken connection if TLS is the cause. It searches `error` and
/// its sources for an error of rustls.
pub fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    explain(find(error)?)
}

/// Describes an error: by [`refusal`] if TLS is the cause, and otherwise with all of its sources.
pub fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(refused) = refusal(error) {
        return refused;
    }
    let mut words: Vec<_> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

/// Walks the sources. The error that an `io::Error` carries is not its `source`, so it is fetched
/// by `get_ref`.
fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    if let Some(found) = error.downcast_ref::<Error>() {
        return Some(found);
    }
    let inner = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried as &'a (dyn std::error::Error + 'static)),
        None => error.source(),
    };
    find(inner?)
}

fn explain(error: &Error) -> Option<String> {
    if let Error::InvalidCertificate(CertificateError::Other(other)) = error
        && let Some(refused) = other.0.downcast_ref::<PeerRefused>()
    {
        return Some(refused.to_string());
    }
    let words = match error {
        Error::InvalidCertificate(_) => {
            return Some(format!("the server's certificate is refused: {}", certificate_problem(error)));
        }
        Error::AlertReceived(alert) => return Some(alert_text(*alert)),
        Error::PeerIncompatible(what) => return incompatibility(what),
        Error::PeerMisbehaved(what) => return Some(format!("the server violates the TLS protocol: {what:?}")),
        Error::NoCertificatesPresented => "the server presented no certificate",
        Error::NoApplicationProtocol => "the server supports none of our application protocols (ALPN)",
        Error::InvalidMessage(_) => "the server does not speak TLS on this port",
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "the server sent a TLS message out of turn"
        }
        Error::DecryptError => "what the server sent cannot be decrypted: something on the path changes it",
        Error::PeerSentOversizedRecord => "the server sent a TLS record that is too long",
        _ => return None,
    };
    Some(words.to_owned())
}

fn incompatibility(what: &PeerIncompatible) -> Option<String> {
    let words = match what {
        PeerIncompatible::ServerSentHelloRetryRequestWithUnknownExtension => return None,
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => "it supports neither TLS 1.2 nor 1.3",
        PeerIncompatible::NoCipherSuitesInCommon => "the two sides have no cipher suite in common",
        PeerIncompatible::NoKxGroupsInCommon => "the two sides have no key exchange in common",
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
            "the two sides have no signature algorithm in common"
        }
        PeerIncompatible::ExtendedMasterSecretExtensionRequired => {
            "it speaks TLS 1.2 without the extended master secret (RFC 7627)"
        }
        other => return Some(format!("the server's TLS is incompatible with ours: {other:?}")),
    };
    Some(format!("the server's TLS is incompatible with ours: {words}"))
}

/// Guesses the server's reason, because an alert has only a code.
fn alert_text(alert: AlertDescription) -> String {
    let guess = match alert {
        AlertDescription::CertificateRequired => "it requires a client certificate: set client_certificate: svid",
        AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not trust our client certificate: check that it has our trust domain's bundle"
        }
        AlertDescription::CertificateExpired => "it considers our client certificate expired: compare the clocks",
        AlertDescription::UnsupportedCertificate => "it does not support a certificate of our kind",
        AlertDescription::CertificateRevoked => "it considers our client certificate revoked",
        AlertDescription::DecryptError => "it could not verify our signature",
        AlertDescription::InsufficientSecurity => "it requires stronger cryptography than the two sides have in common",
        AlertDescription::InternalError => "it failed by itself: its own log may say why",
        AlertDescription::AccessDenied => "it does not authorize our SPIFFE ID",
        AlertDescription::UnrecognisedName => "it has no certificate for this host name",
        AlertDescription::ProtocolVersion => "it supports neither TLS 1.2 nor 1.3",
        AlertDescription::NoApplicationProtocol => "it supports none of our application protocols (ALPN)",
        AlertDescription::HandshakeFailure => {
            "the two sides have nothing in common, or it requires a client certificate"
        }
        _ => "it gave no other reason",
    };
    format!("the server refused the connection with the TLS alert {alert:?}: {guess}")
}
