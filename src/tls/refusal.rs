//! TLS errors for people: which side refused, what was expected, what was shown, what to do.
use super::error::{PeerRefused, certificate_problem};
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use std::io;

/// What a failed handshake or a broken connection means, where TLS is the cause. Takes any error and looks for rustls' in it.
pub fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    explain(find(error)?)
}

/// An error with its causes, in TLS's own words where there are some.
pub fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(refused) = refusal(error) {
        return refused;
    }
    let mut words: Vec<_> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

/// Walks the causes. An `io::Error` hides the error that it carries from `source`.
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
        Error::PeerIncompatible(what) => Some(format!("the server's TLS does not fit ours: {what:?}")),
        Error::NoApplicationProtocol => Some("the server offers none of our application protocols (ALPN)".to_owned()),
        Error::InvalidMessage(_) => Some("the server does not speak TLS on this port".to_owned()),
        _ => None,
    }
}

/// The server's reasons; it says one word, so ours are guesses.
fn alert_text(alert: AlertDescription) -> String {
    let guess = match alert {
        AlertDescription::CertificateRequired => "it wants a client certificate: set client_certificate: svid",
        AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not trust our client certificate: does it have our trust domain's bundle?"
        }
        AlertDescription::CertificateExpired => "it takes our client certificate for expired: compare the clocks",
        AlertDescription::AccessDenied => "it does not let our SPIFFE ID in",
        AlertDescription::UnrecognisedName => "it has no certificate for this host name",
        AlertDescription::ProtocolVersion => "it speaks none of TLS 1.2 and 1.3",
        AlertDescription::NoApplicationProtocol => "it takes none of our application protocols (ALPN)",
        AlertDescription::HandshakeFailure => "nothing in common, or it wants a client certificate",
        _ => "it gave no other reason",
    };
    format!("the server refused the connection with the TLS alert {alert:?}: {guess}")
}
