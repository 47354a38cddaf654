//! The certificates that the injector makes for itself. A generation is a CA and the one serving
//! certificate that it signed. The CA's key is dropped at once and stored nowhere, so nobody can
//! sign a second certificate.
use crate::clock::Timestamp;
use arc_swap::ArcSwapOption;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// A CA's certificate, which is different in every generation.
pub(super) type Ca = CertificateDer<'static>;

/// A CA and the serving certificate that it signed.
#[derive(Clone)]
pub(super) struct Generation {
    pub(super) ca_pem: String,
    pub(super) certificate_pem: String,
    pub(super) key_pem: Zeroizing<String>,
    pub(super) ca: Ca,
    certified: Arc<CertifiedKey>,
    begins: Timestamp,
    pub(super) ends: Timestamp,
}

/// Whether a generation is usable at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Validity {
    Valid,
    /// It is usable and should be replaced.
    RenewalDue,
    /// It has expired, or is for another name.
    Invalid,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("begins", &self.begins).field("ends", &self.ends).finish_non_exhaustive()
    }
}

/// A certificate is valid from this long before it was made, because clocks differ.
const SKEW: Duration = Duration::from_secs(3600);

impl Generation {
    /// Makes a generation for the DNS name `name`.
    pub(super) fn make(name: &str, now: Timestamp, lifetime: Duration) -> Result<Self, String> {
        let ends = now.plus(lifetime);
        let authority = authority(now, ends).map_err(|error| format!("the CA could not be made: {error}"))?;
        let (certificate, key) = serving(name, &authority, now, ends)
            .map_err(|error| format!("the certificate could not be made: {error}"))?;
        Self::read(&authority.pem(), &certificate, Zeroizing::new(key.serialize_pem()))
    }

    /// Reads a generation from three PEM texts.
    pub(super) fn read(ca_pem: &str, certificate_pem: &str, key_pem: Zeroizing<String>) -> Result<Self, String> {
        let ca = Ca::from_pem_slice(ca_pem.as_bytes()).map_err(|error| format!("the CA: {error}"))?;
        let chain: Vec<Ca> = Ca::pem_slice_iter(certificate_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the certificate: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| format!("the key: {error}"))?;
        let leaf = chain.first().ok_or("the certificate is missing")?.clone();
        let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|error| format!("the certificate: {error}"))?;
        let instant = |seconds: i64| Timestamp::from_unix_seconds(u64::try_from(seconds).unwrap_or(0));
        let (begins, ends) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|error| format!("the key is not the certificate's: {error}"))?;
        Ok(Self {
            ca_pem: ca_pem.to_owned(),
            certificate_pem: certificate_pem.to_owned(),
            key_pem,
            ca,
            certified: Arc::new(certified),
            begins: instant(begins).plus(SKEW),
            ends: instant(ends),
        })
    }

    /// Verifies the certificate as the API server does, by the name and the CA.
    pub(super) fn validity(&self, name: &str, now: Timestamp) -> Validity {
        if self.verify(name, now).is_err() {
            return Validity::Invalid;
        }
        let lifetime = self.ends.since(self.begins);
        if now.since(self.begins) >= lifetime * 2 / 3 { Validity::RenewalDue } else { Validity::Valid }
    }

    fn verify(&self, name: &str, now: Timestamp) -> Result<(), rustls::Error> {
        let leaf = self.certified.end_entity_cert()?;
        let parsed = ParsedCertificate::try_from(leaf)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone())?;
        let name = ServerName::try_from(name).map_err(|_| rustls::Error::General("not a DNS name".to_owned()))?;
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_millis()));
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms.all)?;
        verify_server_name(&parsed, &name)
    }
}

fn date(instant: Timestamp) -> Result<OffsetDateTime, Box<dyn std::error::Error>> {
    Ok(OffsetDateTime::from_unix_timestamp(i64::try_from(instant.unix_seconds())?)?)
}

fn authority(now: Timestamp, ends: Timestamp) -> Result<CertifiedIssuer<'static, KeyPair>, Box<dyn std::error::Error>> {
    let mut params = CertificateParams::default();
    // The suffix distinguishes generations for people who look at a bundle.
    params.distinguished_name.push(DnType::CommonName, format!("idjag-proxy-injector {:08x}", fastrand::u32(..)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (date(now.minus(SKEW))?, date(ends)?);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn serving(
    name: &str,
    authority: &CertifiedIssuer<'static, KeyPair>,
    now: Timestamp,
    ends: Timestamp,
) -> Result<(String, KeyPair), Box<dyn std::error::Error>> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "idjag-proxy-injector");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (date(now.minus(SKEW))?, date(ends)?);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, authority)?.pem(), key))
}

/// Reads the certificates of a `caBundle`. Anything else in it trusts nothing and is left out.
pub(super) fn bundle(pem: &[u8]) -> Vec<Ca> {
    Ca::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// Writes these certificates as a `caBundle`.
pub(super) fn bundle_pem(cas: &[Ca]) -> String {
    use base64::Engine;
    let mut pem = String::new();
    for ca in cas {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = base64::engine::general_purpose::STANDARD.encode(ca);
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

/// The certificate that handshakes present. A handshake that has begun keeps the one that it
/// started with.
#[derive(Debug, Default)]
pub(super) struct ServedCertificate(ArcSwapOption<CertifiedKey>);

impl ServedCertificate {
    pub(super) fn set(&self, generation: &Generation) {
        self.0.store(Some(Arc::clone(&generation.certified)));
    }
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Configures TLS for the API server. Only HTTP/1.1 is offered: it takes one connection per call in
/// flight, so calls get past a node that died silently, where HTTP/2's single connection would hang
/// until its ping fails.
pub(super) fn server_config(served: Arc<ServedCertificate>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(served);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "idjag-proxy-injector.idjag-proxy.svc";
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> Timestamp {
        Timestamp::from_unix_seconds(1_780_000_000)
    }

    fn generation() -> Generation {
        Generation::make(NAME, now(), 90 * DAY).expect("made")
    }

    #[test]
    fn generation_is_valid_then_due_for_renewal_then_invalid() {
        let generation = generation();
        let at = |days: u32| generation.validity(NAME, now().plus(days * DAY));
        assert_eq!(
            [at(0), at(59), at(60), at(89), at(91)],
            [Validity::Valid, Validity::Valid, Validity::RenewalDue, Validity::RenewalDue, Validity::Invalid]
        );
        assert_eq!(generation.validity(NAME, now().minus(SKEW / 2)), Validity::Valid, "by a clock that is behind");
        assert_eq!(generation.validity("other.idjag-proxy.svc", now()), Validity::Invalid);
    }

    #[test]
    fn stored_generation_is_read_back() {
        let made = generation();
        let read = Generation::read(&made.ca_pem, &made.certificate_pem, made.key_pem.clone()).expect("read");
        assert_eq!((read.ca, read.ends), (made.ca.clone(), made.ends));
        let other = generation();
        let mixed = Generation::read(&made.ca_pem, &made.certificate_pem, other.key_pem.clone()).expect_err("mixed");
        assert!(mixed.starts_with("the key is not the certificate's"), "{mixed}");
        let of_another_ca = Generation::read(&other.ca_pem, &made.certificate_pem, made.key_pem.clone()).expect("read");
        assert_eq!(of_another_ca.validity(NAME, now()), Validity::Invalid, "another CA signed it");
        assert!(Generation::read("", "", Zeroizing::default()).is_err());
    }

    #[test]
    fn bundle_is_read_back() {
        let cas = [generation().ca, generation().ca];
        assert_eq!(bundle(bundle_pem(&cas).as_bytes()), cas);
        assert_eq!(bundle(b"nothing"), Vec::<Ca>::new());
        assert_ne!(cas[0], cas[1]);
    }

    #[test]
    fn debug_output_contains_no_key() {
        let generation = generation();
        let shown = format!("{generation:?} {:?}", generation.certified.cert.len());
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}
