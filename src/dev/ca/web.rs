//! A plain CA for server certificates with host names instead of SPIFFE IDs, like a company's own
//! PKI.
use super::KeyType;
use super::svid::{certified_key, pem};
use super::x509_authority::date;
use crate::clock::Clock;
use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Signs server certificates. Clones share the authority.
#[derive(Clone)]
pub struct WebCa {
    clock: Clock,
    authority: Arc<CertifiedIssuer<'static, KeyPair>>,
}

impl fmt::Debug for WebCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebCa")
    }
}

impl WebCa {
    /// Creates a CA.
    pub fn new(clock: &Clock) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("idjag-proxy dev CA {}", fastrand::u64(..)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date(clock.now().minus(DAY))?;
        params.not_after = date(clock.now().plus(3650 * DAY))?;
        let authority =
            CertifiedIssuer::self_signed(params, KeyType::P256.generate()?).context("cannot create a CA")?;
        Ok(Self { clock: clock.clone(), authority: Arc::new(authority) })
    }

    /// Issues a certificate that is valid for one day and for these DNS names or IP addresses.
    pub fn server_certificate(&self, names: &[&str]) -> anyhow::Result<Arc<CertifiedKey>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date(self.clock.now().minus(DAY))?;
        params.not_after = date(self.clock.now().plus(DAY))?;
        let key = KeyType::P256.generate()?;
        let leaf = params.signed_by(&key, &**self.authority).context("cannot sign a server certificate")?;
        certified_key(vec![leaf.der().clone()], key.serialized_der())
    }

    /// The CA's certificate in DER.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.authority.der().clone()
    }

    /// The CA's certificate as a `CERTIFICATE` block, for a `ca_file`.
    pub fn certificate_pem(&self) -> String {
        pem(&[self.certificate()])
    }
}
