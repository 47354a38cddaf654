//! A worker thread's cache of delegated tokens.
use super::slot::{AccessToken, Slot};
use super::tokens::Tokens;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// A worker's own cache of delegated tokens, keyed by grant and SHA-256 of the user's token, so
/// that a user's token is verified once per worker and not once per request.
pub struct Delegated {
    tokens: LruCache<(u64, [u8; 32]), (u64, Arc<AccessToken>)>,
}

impl Delegated {
    /// Creates a cache of at most `capacity` tokens.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { tokens: LruCache::new(capacity) }
    }

    /// The usable token that was minted for this user's token, if there is one.
    pub fn ready(&mut self, tokens: &Tokens, slot: &Slot, hash: [u8; 32]) -> Option<Arc<AccessToken>> {
        let (fence, token) = self.tokens.get(&(slot.id(), hash))?;
        if *fence != tokens.fence() || !token.is_usable(tokens.now()) {
            self.tokens.pop(&(slot.id(), hash));
            return None;
        }
        tokens.metrics.hit.inc();
        Some(Arc::clone(token))
    }

    /// Keeps a token that the owner returned for a request that began at `fence`.
    pub fn remember(&mut self, fence: u64, slot: &Slot, hash: [u8; 32], token: &Arc<AccessToken>) {
        self.tokens.put((slot.id(), hash), (fence, Arc::clone(token)));
    }

    /// The fence for [`Delegated::remember`]; it must be read before the owner is asked.
    pub fn fence(tokens: &Tokens) -> u64 {
        tokens.fence()
    }
}
