//! Access tokens, and the slots from which readers take them.
use super::field_values::FieldValues;
use super::schedule::skew;
use crate::clock::Timestamp;
use crate::exchange::{Grant, IssuedToken};
use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An access token.
#[derive(Debug)]
pub struct AccessToken {
    issued: IssuedToken,
    field_values: FieldValues,
    minted_at: Timestamp,
    usable_until: Timestamp,
    /// Unique within the process. It identifies the token without showing its bytes.
    serial: u64,
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

impl AccessToken {
    /// Creates a token that was minted at `now`. `None` if a header field cannot hold it, which the
    /// check for `token68` (RFC 9110 §11.2) has ruled out before.
    pub(super) fn new(issued: IssuedToken, now: Timestamp) -> Option<Self> {
        HeaderValue::from_str(issued.token.expose()).ok()?;
        let lifetime = issued.expires_at.since(now);
        Some(Self {
            usable_until: issued.expires_at.minus(skew(lifetime)),
            issued,
            field_values: FieldValues::default(),
            minted_at: now,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// The value of a header field that carries the token after `prefix`, or `None` if a field
    /// cannot hold it. It is made once for each prefix, and a clone shares its bytes.
    pub fn field_value(&self, prefix: &str) -> Option<&HeaderValue> {
        self.field_values.get(prefix, &self.issued.token)
    }

    /// The time at which the token expires, according to the server.
    pub fn expires_at(&self) -> Timestamp {
        self.issued.expires_at
    }

    /// The scopes that the server granted.
    pub fn scopes(&self) -> &[String] {
        &self.issued.scopes
    }

    /// Whether the token may still be sent: it has not expired, with a margin for the transfer and
    /// for clock skew.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        now < self.usable_until
    }

    pub(super) fn minted_at(&self) -> Timestamp {
        self.minted_at
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn size(&self) -> usize {
        self.issued.token.expose().len()
    }
}

/// One grant of the configuration and, if it is the workload's own, the token held for it. A route
/// points at its slot. Routes with equal grants share a slot, also across a reload.
#[derive(Debug)]
pub struct Slot {
    grant: ArcSwap<Grant>,
    held: ArcSwapOption<AccessToken>,
    /// Set by readers and cleared by a refresh: a token that was not used since the last refresh is
    /// not renewed.
    used: AtomicBool,
    eager: AtomicBool,
    obtained: AtomicBool,
    /// When the latest token expires, in seconds since the epoch; 0 for none.
    expires_at: AtomicU64,
    id: u64,
}

impl Slot {
    pub(super) fn new(grant: Arc<Grant>) -> Self {
        let id = SERIAL.fetch_add(1, Ordering::Relaxed);
        Self {
            grant: ArcSwap::new(grant),
            held: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            eager: AtomicBool::new(false),
            obtained: AtomicBool::new(false),
            expires_at: AtomicU64::new(0),
            id,
        }
    }

    /// The grant that the token is requested for.
    pub fn grant(&self) -> Arc<Grant> {
        self.grant.load_full()
    }

    /// The held token, if it may be sent now.
    pub fn ready(&self, now: Timestamp) -> Option<Arc<AccessToken>> {
        let held = self.held.load();
        let token = held.as_ref().filter(|token| token.is_usable(now))?;
        // Read before writing, so that a hit leaves the cache line shared.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(token))
    }

    /// The held token, usable or not.
    pub fn held(&self) -> Option<Arc<AccessToken>> {
        self.held.load_full()
    }

    /// When the latest token expires or has expired, in seconds since the epoch; 0 if there was
    /// none, or if it was refused or purged.
    pub fn expires_at(&self) -> u64 {
        self.expires_at.load(Ordering::Relaxed)
    }

    /// Whether a token was obtained at any time.
    pub fn was_obtained(&self) -> bool {
        self.obtained.load(Ordering::Relaxed)
    }

    /// Replaces the grant by an equal one from a reload. What a server decides on is the same, but
    /// the secret or key that we authenticate with may differ.
    pub(super) fn replace_grant(&self, grant: &Arc<Grant>) {
        self.grant.store(Arc::clone(grant));
    }

    /// Distinguishes the slot from all others of the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sets the held token. `None` if it was refused or purged.
    pub(super) fn hold(&self, token: Option<Arc<AccessToken>>) {
        if token.is_some() {
            self.obtained.store(true, Ordering::Relaxed);
        }
        self.expires_at.store(token.as_ref().map_or(0, |token| token.expires_at().unix_seconds()), Ordering::Relaxed);
        self.held.store(token);
    }

    /// Drops the token because it has expired.
    pub(super) fn clear(&self) {
        self.held.store(None);
    }

    pub(super) fn set_eager(&self, eager: bool) {
        self.eager.store(eager, Ordering::Relaxed);
    }

    pub(super) fn is_eager(&self) -> bool {
        self.eager.load(Ordering::Relaxed)
    }

    /// Whether the token was used since this was last called.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    pub(super) fn mark_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }
}
