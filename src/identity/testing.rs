//! Certificates for tests, good and bad.
use super::handle::Identity;
use super::jwt::JwtIssuer;
use super::material::{self, Material};
use super::metrics::Metrics;
use super::publisher::Publisher;
use crate::clock::{Clock, Timestamp};
use crate::telemetry::Registrar;
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use std::time::Duration;
use zeroize::Zeroizing;

/// A trust domain's only authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

/// The properties of a leaf certificate. Those of [`LeafShape::new`] are valid for an SVID.
pub(crate) struct LeafShape {
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) ca: bool,
    pub(crate) usages: Vec<KeyUsagePurpose>,
    pub(crate) not_after: Timestamp,
    pub(crate) key: Option<KeyPair>,
}

pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The private key as PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
}

impl Issued {
    pub(crate) fn chain_der(&self) -> Vec<u8> {
        self.chain.iter().flat_map(|der| der.to_vec()).collect()
    }
}

impl LeafShape {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            uris: vec![id.to_owned()],
            dns: Vec::new(),
            ca: false,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            not_after: Clock::system().now().plus(Duration::from_secs(3600)),
            key: None,
        }
    }
}

impl Authority {
    pub(crate) fn new(domain: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
        // Random, because two authorities with the same name would differ only in their keys.
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("{domain} {}", fastrand::u64(..)));
        let der = params.self_signed(&key).expect("certificate").der().clone();
        Self { issuer: Issuer::new(params, key), der }
    }

    pub(crate) fn bundle(&self) -> Vec<u8> {
        self.der.to_vec()
    }

    pub(crate) fn issue(&self, shape: LeafShape) -> Issued {
        let key = shape.key.unwrap_or_else(|| KeyPair::generate().expect("key"));
        let mut params = CertificateParams::default();
        params.subject_alt_names = shape.uris.iter().map(|id| uri(id)).collect();
        for name in shape.dns {
            params.subject_alt_names.push(SanType::DnsName(name.try_into().expect("a DNS name")));
        }
        params.is_ca = if shape.ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.key_usages = shape.usages;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = std::time::UNIX_EPOCH.into();
        params.not_after = (std::time::UNIX_EPOCH + Duration::from_millis(shape.not_after.unix_millis())).into();
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        Issued { chain: vec![certificate.der().clone()], key: Zeroizing::new(key.serialize_der()) }
    }
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().expect("ASCII"))
}

/// A good update for `id`.
pub(crate) fn material(authority: &Authority, id: &str) -> Material {
    let issued = authority.issue(LeafShape::new(id));
    Material {
        chain: issued.chain_der(),
        key: issued.key,
        bundle: authority.bundle(),
        federated: Vec::new(),
        named: Some(id.to_owned()),
        hint: None,
    }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// An identity whose updates the test publishes.
pub(crate) struct IdentityFixture {
    pub(crate) identity: Identity,
    pub(crate) clock: Clock,
    pub(crate) registrar: Registrar,
    publisher: Publisher,
}

impl IdentityFixture {
    pub(crate) fn new() -> Self {
        let (clock, registrar) = (Clock::shiftable(), Registrar::default());
        let metrics = Metrics::new(&registrar).expect("metrics");
        let (publisher, identity) = Publisher::new("a test".into(), JwtIssuer::None, clock.clone(), metrics);
        Self { identity, clock, registrar, publisher }
    }

    pub(crate) fn with(authority: &Authority, id: &str) -> Self {
        let mut fixture = Self::new();
        fixture.publish(material(authority, id));
        fixture
    }

    pub(crate) fn publish(&mut self, material: Material) {
        match material::check(material, self.clock.now()) {
            Ok(checked) => self.publisher.publish(checked),
            Err(refused) => self.publisher.refuse(&refused),
        }
    }

    pub(crate) fn withdraw(&mut self) {
        self.publisher.withdraw("the test withdrew it");
    }

    pub(crate) fn waiting(&mut self, why: &str) {
        self.publisher.report_waiting("test", why);
    }

    pub(crate) fn check_expiry(&mut self) -> bool {
        self.publisher.check_expiry()
    }
}
