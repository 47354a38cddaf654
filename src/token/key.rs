//! The key of a token in the cache: a digest of everything that the authorization server decides
//! on, but not of the bytes of our own SVIDs and assertions, which rotate.
use crate::exchange::GrantDigest;
use crate::secret::Secret;
use aws_lc_rs::digest::{Context, SHA256, digest};

/// SHA-256 over the resolved grant, the workload's SPIFFE ID and, for a delegated grant, the user's
/// token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenKey([u8; 32]);

impl TokenKey {
    /// Computes the key. It covers the user's token and not only the user, because two tokens of
    /// one user may differ in anything that a server decides on.
    pub(super) fn new(grant: &GrantDigest, spiffe_id: Option<&str>, user: Option<&UserToken>) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&grant.0);
        for part in [spiffe_id.map(str::as_bytes), user.map(|user| &user.hash[..])] {
            // Lengths are included, and absent differs from empty, so that different parts have
            // different digests.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            context.update(&length.to_be_bytes());
            context.update(part.unwrap_or_default());
        }
        Self(to_array(context.finish().as_ref()))
    }
}

/// A user's token as the agent sent it, not verified, and its SHA-256.
#[derive(Clone, Debug)]
pub struct UserToken {
    pub(super) token: Secret,
    pub(super) hash: [u8; 32],
}

impl UserToken {
    /// Wraps and hashes the token.
    pub fn new(token: String) -> Self {
        let hash = to_array(digest(&SHA256, token.as_bytes()).as_ref());
        Self { token: Secret::new(token), hash }
    }

    /// The SHA-256 of the token.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }
}

fn to_array(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().expect("SHA-256 is 32 bytes long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_differs_with_every_part() {
        let (one, two) = (GrantDigest([1; 32]), GrantDigest([2; 32]));
        let alice = UserToken::new("alice".into());
        let keys = [
            TokenKey::new(&one, None, None),
            TokenKey::new(&two, None, None),
            TokenKey::new(&one, Some(""), None),
            TokenKey::new(&one, Some("spiffe://a/b"), None),
            TokenKey::new(&one, Some("spiffe://a/b"), Some(&alice)),
            TokenKey::new(&one, None, Some(&alice)),
            TokenKey::new(&one, None, Some(&UserToken::new("bob".into()))),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
