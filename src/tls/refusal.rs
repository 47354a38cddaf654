//! Describes TLS errors for people: which side refused, what was expected, what was presented, and
//! what to do.
use super::error::{PeerRefused, certificate_problem};
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
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            Some(other.0.downcast_ref::<PeerRefused>().map_or_else(|| certificate_problem(error), ToString::to_string))
        }
        Error::InvalidCertificate(_) => {
            Some(format!("the server's certificate is refused: {}", certificate_problem(error)))
        }
        Error::AlertReceived(alert) => Some(alert_text(*alert)),
        Error::PeerIncompatible(PeerIncompatible::ServerSentHelloRetryRequestWithUnknownExtension)
        | Error::General(_) => None,
        Error::PeerIncompatible(what) => Some(format!("the server's TLS is incompatible with ours: {what:?}")),
        Error::NoApplicationProtocol => Some("the server supports none of our application protocols (ALPN)".to_owned()),
        Error::InvalidMessage(_) => Some("the server does not speak TLS on this port".to_owned()),
        _ => None,
    }
}

/// Guesses the server's reason, because an alert has only a code.
fn alert_text(alert: AlertDescription) -> String {
    let guess = match alert {
        AlertDescription::CertificateRequired => "it requires a client certificate: set client_certificate: svid",
        AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not trust our client certificate: check that it has our trust domain's bundle"
        }
        AlertDescription::CertificateExpired => "it considers our client certificate expired: compare the clocks",
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
