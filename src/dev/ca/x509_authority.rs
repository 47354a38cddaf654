//! The X.509 authorities of a trust domain. They rotate as SPIRE's do: `prepare` publishes a new
//! authority, `activate` signs with it, and `revoke` removes the old ones from the bundle.
use super::KeyType;
use super::svid::{Flaw, Svid, SvidRequest, pem};
use crate::clock::{Clock, Timestamp};
use crate::sync::lock;
use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use time::OffsetDateTime;

/// Certificates are valid from this much before they are issued, so that clocks may differ by a few
/// seconds.
const BACKDATE: Duration = Duration::from_secs(60);
const AUTHORITY_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Signs X.509-SVIDs of one trust domain. Clones share the authorities.
#[derive(Clone)]
pub struct X509Authority {
    trust_domain: String,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

struct State {
    published: Vec<Authority>,
    active: usize,
}

impl fmt::Debug for X509Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl X509Authority {
    /// Creates one P-256 authority, which is published and signs.
    pub fn new(trust_domain: &str, clock: &Clock) -> anyhow::Result<Self> {
        let first = authority(trust_domain, clock)?;
        let state = State { published: vec![first], active: 0 };
        Ok(Self { trust_domain: trust_domain.to_owned(), clock: clock.clone(), state: Arc::new(Mutex::new(state)) })
    }

    /// Issues an SVID for any SPIFFE ID, so that tests can let an authority sign for a foreign
    /// trust domain.
    pub fn issue(&self, request: &SvidRequest) -> anyhow::Result<Svid> {
        let key = request.key_type.generate()?;
        let (not_before, not_after) = validity(request, self.clock.now());
        let params = leaf_params(request, not_before, not_after)?;
        let state = self.lock();
        let leaf = params.signed_by(&key, &*state.published[state.active]).context("cannot sign an SVID")?;
        let key = match request.flaw {
            Some(Flaw::KeyMismatch) => request.key_type.generate()?,
            _ => key,
        };
        Ok(Svid {
            id: request.id.clone(),
            hint: request.hint.clone(),
            chain: vec![leaf.der().clone()],
            key: key.serialize_der(),
            not_after,
        })
    }

    /// Publishes another authority, which does not sign yet.
    pub fn prepare(&self) -> anyhow::Result<()> {
        let next = authority(&self.trust_domain, &self.clock)?;
        self.lock().published.push(next);
        Ok(())
    }

    /// Signs with the newest published authority from now on.
    pub fn activate(&self) {
        let mut state = self.lock();
        state.active = state.published.len() - 1;
    }

    /// Removes every authority but the signing one from the bundle. What the others have signed is
    /// no longer trusted.
    pub fn revoke(&self) {
        let mut state = self.lock();
        let active = state.active;
        let signing = state.published.swap_remove(active);
        *state = State { published: vec![signing], active: 0 };
    }

    /// Replaces the authority at once: [`Self::prepare`], [`Self::activate`] and [`Self::revoke`].
    pub fn replace(&self) -> anyhow::Result<()> {
        self.prepare()?;
        self.activate();
        self.revoke();
        Ok(())
    }

    /// The published authorities in DER.
    pub fn bundle(&self) -> Vec<CertificateDer<'static>> {
        self.lock().published.iter().map(|authority| authority.der().clone()).collect()
    }

    /// The bundle as the Workload API sends it: concatenated DER certificates.
    pub fn bundle_der(&self) -> Vec<u8> {
        self.bundle().iter().flat_map(|certificate| certificate.as_ref().to_vec()).collect()
    }

    /// The bundle as `CERTIFICATE` blocks.
    pub fn bundle_pem(&self) -> String {
        pem(&self.bundle())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn authority(trust_domain: &str, clock: &Clock) -> anyhow::Result<Authority> {
    let mut params = CertificateParams::default();
    // The subject is unique, so that building a chain by name finds the right authority. SPIRE puts
    // a `serialNumber` attribute into it for the same purpose.
    params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} {}", fastrand::u64(..)));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(clock.now().minus(BACKDATE))?;
    params.not_after = date(clock.now().plus(AUTHORITY_TTL))?;
    CertifiedIssuer::self_signed(params, KeyType::P256.generate()?).context("cannot create an authority")
}

fn validity(request: &SvidRequest, now: Timestamp) -> (Timestamp, Timestamp) {
    match request.flaw {
        Some(Flaw::Expired) => (now.minus(Duration::from_secs(7200)), now.minus(Duration::from_secs(3600))),
        Some(Flaw::NotYetValid) => {
            let start = now.plus(Duration::from_secs(3600));
            (start, start.plus(request.ttl))
        }
        _ => (now.minus(BACKDATE), now.plus(request.ttl)),
    }
}

fn leaf_params(
    request: &SvidRequest,
    not_before: Timestamp,
    not_after: Timestamp,
) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "idjag-proxy dev");
    params.subject_alt_names = match &request.flaw {
        Some(Flaw::TwoUriSans) => vec![uri(&request.id)?, uri(&format!("{}-too", request.id))?],
        Some(Flaw::NoUriSan) => vec![SanType::DnsName("agent.example".try_into()?)],
        Some(Flaw::OtherId(id)) => vec![uri(id)?],
        _ => vec![uri(&request.id)?],
    };
    params.is_ca = match request.flaw {
        Some(Flaw::CaLeaf) => IsCa::Ca(BasicConstraints::Unconstrained),
        // rcgen's NoCa omits BasicConstraints, which the standard does not allow (SPIFFE X.509-SVID
        // §4.1).
        _ => IsCa::ExplicitNoCa,
    };
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    Ok(params)
}

fn uri(text: &str) -> anyhow::Result<SanType> {
    Ok(SanType::URI(text.try_into().context("a SPIFFE ID must be ASCII")?))
}

pub(super) fn date(instant: Timestamp) -> anyhow::Result<OffsetDateTime> {
    let seconds = i64::try_from(instant.unix_seconds())?;
    OffsetDateTime::from_unix_timestamp(seconds).context("a date that a certificate cannot represent")
}
