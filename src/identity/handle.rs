//! The readers' side of the identity. One atomic load and one reading of the clock show whether it
//! can be used now, and if not, why.
use super::jwt::{JwtIssuer, JwtSvid, JwtSvidError};
use super::snapshot::Snapshot;
use super::state::{Missing, SharedState};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// A handle to the identity that a source keeps current. It is cheap to clone; all threads share
/// the identity.
#[derive(Clone)]
pub struct Identity(pub(super) Arc<IdentityInner>);

/// The state of the identity and its source at one moment, for the status page. It contains no
/// secret.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SourceStatus {
    /// The source, described for people.
    pub source: String,
    /// Whether the Workload API's stream is open and has delivered a message; with files, whether
    /// the last attempt to read them succeeded.
    pub connected: bool,
    /// Whether an SVID can be used now.
    pub valid: bool,
    /// What the source is waiting for, described for people.
    pub waiting_for: Option<String>,
    /// The SPIFFE ID of the last SVID, even if it can no longer be used.
    pub spiffe_id: Option<String>,
    /// When that SVID expires, in seconds since the epoch.
    pub expires_at: Option<u64>,
    /// The federated trust domains whose bundles are held.
    pub federated_trust_domains: Vec<String>,
    /// A number that grows with every change.
    pub revision: u64,
    /// Why the most recent refused update was refused.
    pub last_refused: Option<String>,
}

/// What every clone of an [`Identity`] shares with the source's owner.
pub(super) struct IdentityInner {
    pub(super) state: SharedState,
    pub(super) jwt: JwtIssuer,
}

impl Identity {
    /// Returns the snapshot that can be used now.
    ///
    /// # Errors
    /// [`Missing`], which says what the source is waiting for.
    pub fn current(&self) -> Result<Arc<Snapshot>, Missing> {
        self.0.state.current()
    }

    /// Whether [`Self::current`] would succeed. It does not clone the snapshot, because it is
    /// called on the request path.
    pub fn is_valid(&self) -> bool {
        self.0.state.is_valid()
    }

    /// Returns the last accepted snapshot, even if it has expired or was withdrawn. It is for
    /// display only.
    pub fn latest_held(&self) -> Option<Arc<Snapshot>> {
        self.0.state.load().held.clone()
    }

    /// Subscribes to the revision, which grows with every accepted update that changes something,
    /// every withdrawal and every expiry.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.state.changes.subscribe()
    }

    /// Returns a JWT-SVID for exactly this audience and the SPIFFE ID of [`Self::current`]. It is
    /// cached for half of its lifetime.
    ///
    /// # Errors
    /// No identity can be used now, the source has no JWT-SVIDs, or the Workload API refused or did
    /// not answer in time.
    pub async fn jwt_svid(&self, audience: &str) -> Result<JwtSvid, JwtSvidError> {
        self.0.jwt.svid(&self.0.state, audience).await
    }

    /// Describes the identity and its source for the status page.
    pub fn status(&self) -> SourceStatus {
        let state = self.0.state.load();
        let svid = state.held.as_ref().map(|snapshot| &snapshot.svid);
        let federated = state.held.iter().flat_map(|snapshot| snapshot.federated());
        SourceStatus {
            source: self.0.state.source.clone(),
            connected: state.connected,
            valid: self.is_valid(),
            waiting_for: state.waiting_for.clone(),
            spiffe_id: svid.map(|svid| svid.id.to_string()),
            expires_at: svid.map(|svid| svid.not_after.unix_seconds()),
            federated_trust_domains: federated.map(ToString::to_string).collect(),
            revision: *self.0.state.changes.borrow(),
            last_refused: state.last_refused.clone(),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Identity").field("source", &self.0.state.source).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::MissingKind;
    use crate::identity::testing::{Authority, IdentityFixture, material};
    use std::time::Duration;

    const ID: &str = "spiffe://example.org/agent";

    /// The value of one series, given with its labels.
    fn metric(fixture: &IdentityFixture, series: &str) -> f64 {
        let text = fixture.registrar.encode().expect("text");
        let value =
            text.lines().find_map(|line| line.strip_prefix("idjag_proxy_")?.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{series} is not present from the start")).parse().expect("a number")
    }

    #[test]
    fn identity_goes_from_waiting_to_held_to_withdrawn_to_held() {
        let authority = Authority::new("example.org");
        let mut fixture = IdentityFixture::new();
        let changes = fixture.identity.changes();
        assert_eq!(fixture.identity.current().err().map(|missing| missing.kind), Some(MissingKind::Waiting));
        assert_eq!(metric(&fixture, "svid_updates_total{result=\"accepted\"}"), 0.0);

        fixture.publish(material(&authority, ID));
        let first = fixture.identity.current().expect("held");
        assert!(fixture.identity.is_valid() && changes.has_changed().expect("open"));
        assert_eq!((first.svid.id.to_string().as_str(), first.revision), (ID, 1));
        assert_eq!(metric(&fixture, "svid_expiry_timestamp_seconds") as u64, first.svid.not_after.unix_seconds());

        fixture.withdraw();
        assert!(!fixture.identity.is_valid());
        assert_eq!(fixture.identity.current().err().map(|missing| missing.kind), Some(MissingKind::Withdrawn));
        assert!(fixture.identity.latest_held().is_some(), "still shown");
        assert_eq!(metric(&fixture, "svid_expiry_timestamp_seconds"), 0.0);
        assert_eq!(*changes.borrow(), 2);

        fixture.publish(material(&authority, ID));
        assert_eq!(fixture.identity.current().expect("held again").revision, 3);
    }

    #[test]
    fn bad_update_is_counted_and_keeps_the_good_one() {
        let authority = Authority::new("example.org");
        let mut fixture = IdentityFixture::with(&authority, ID);
        let before = fixture.identity.current().expect("held");
        let mut bad = material(&authority, ID);
        bad.named = Some("spiffe://example.org/other".to_owned());
        fixture.publish(bad);
        assert!(Arc::ptr_eq(&before, &fixture.identity.current().expect("kept")));
        assert_eq!(metric(&fixture, "svid_updates_total{result=\"refused\"}"), 1.0);
        let status = fixture.identity.status();
        assert!(status.valid && status.last_refused.is_some_and(|why| why.contains("spiffe://example.org/other")));

        fixture.publish(material(&authority, ID));
        assert_eq!(fixture.identity.current().expect("newer").revision, 2);
        assert_eq!(fixture.identity.status().waiting_for, None);
        assert_eq!(metric(&fixture, "svid_updates_total{result=\"accepted\"}"), 2.0);
    }

    #[test]
    fn expired_svid_is_never_returned_and_logged_once() {
        let mut fixture = IdentityFixture::with(&Authority::new("example.org"), ID);
        let changes = fixture.identity.changes();
        assert!(!fixture.check_expiry());
        fixture.clock.shift(-300);
        assert!(fixture.identity.is_valid(), "a clock set back does not lock us out");
        fixture.clock.shift(2 * 3600);
        assert!(!fixture.identity.is_valid());
        let missing = fixture.identity.current().expect_err("expired");
        assert_eq!(missing.kind, MissingKind::Expired);
        assert!(missing.reason.contains(ID) && missing.reason.contains("expired at 20"), "{missing}");
        assert!(fixture.check_expiry() && !fixture.check_expiry());
        assert_eq!(*changes.borrow(), 2);
        assert!(fixture.identity.latest_held().is_some());
    }

    #[test]
    fn repeated_update_is_not_a_change() {
        let authority = Authority::new("example.org");
        let mut fixture = IdentityFixture::new();
        let one = material(&authority, ID);
        let copy = |from: &crate::identity::material::Material| crate::identity::material::Material {
            chain: from.chain.clone(),
            key: from.key.clone(),
            bundle: from.bundle.clone(),
            federated: from.federated.clone(),
            named: None,
            hint: None,
        };
        fixture.publish(copy(&one));
        fixture.publish(copy(&one));
        assert_eq!(fixture.identity.current().expect("held").revision, 1);
        let mut more = copy(&one);
        more.bundle.extend(Authority::new("example.org").bundle());
        fixture.publish(more);
        assert_eq!(fixture.identity.current().expect("held").revision, 2, "a bundle of its own is a change");
    }

    #[test]
    fn svid_is_valid_until_exactly_its_expiry() {
        let fixture = IdentityFixture::with(&Authority::new("example.org"), ID);
        let svid = &fixture.identity.current().expect("held").svid;
        assert!(svid.is_valid_at(svid.not_after.minus(Duration::from_millis(1))));
        assert!(!svid.is_valid_at(svid.not_after));
    }

    #[test]
    fn debug_and_status_contain_no_secret() {
        let fixture = IdentityFixture::with(&Authority::new("example.org"), ID);
        let snapshot = fixture.identity.current().expect("held");
        let shown = format!("{:?} {:?} {:?}", snapshot, fixture.identity, fixture.identity.status());
        let key = format!("{:?}", snapshot.svid.key_pkcs8());
        assert!(!shown.contains(key.trim_matches(['[', ']'])), "{shown}");
    }
}
