//! What a worker remembers of delegated tokens.
use super::slot::{AccessToken, Slot};
use super::tokens::Tokens;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// A worker's own memory of delegated tokens, from (grant, SHA-256 of the user's token), so that a user's token is verified
/// once per worker and not once per request.
pub struct Delegated {
    tokens: LruCache<(u64, [u8; 32]), (u64, Arc<AccessToken>)>,
}

impl Delegated {
    /// Holds at most `capacity` tokens.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { tokens: LruCache::new(capacity) }
    }

    /// The token that this user's token minted, while it lives.
    pub fn ready(&mut self, tokens: &Tokens, slot: &Slot, hash: [u8; 32]) -> Option<Arc<AccessToken>> {
        let (fence, token) = self.tokens.get(&(slot.id(), hash))?;
        if *fence != tokens.fence() || !token.is_usable(tokens.now()) {
            self.tokens.pop(&(slot.id(), hash));
            return None;
        }
        tokens.metrics.hit.inc();
        Some(Arc::clone(token))
    }

    /// Remembers what the owner answered to a question that began at `fence`.
    pub fn remember(&mut self, fence: u64, slot: &Slot, hash: [u8; 32], token: &Arc<AccessToken>) {
        self.tokens.put((slot.id(), hash), (fence, Arc::clone(token)));
    }

    /// The fence to give to [`Delegated::remember`]; read before asking.
    pub fn fence(tokens: &Tokens) -> u64 {
        tokens.fence()
    }
}
