//! The SPIFFE IDs that a server may have.
use crate::identity::SpiffeId;
use std::collections::BTreeSet;
use std::fmt;

/// The SPIFFE IDs that a server may have: an exact, non-empty list. A federated trust domain is trusted only where one of its IDs
/// stands here by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIds(BTreeSet<SpiffeId>);

/// Why a list of SPIFFE IDs is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdsError {
    /// It would let anyone or no one in.
    #[error("the list of SPIFFE IDs is empty: name at least one, such as spiffe://example.org/reports")]
    Empty,
    /// One entry is no SPIFFE ID, or none that a workload can have.
    #[error("{text:?} is no workload's SPIFFE ID: {why}")]
    NotAnId {
        /// The entry.
        text: String,
        /// The rule.
        why: String,
    },
}

impl PeerIds {
    /// From the configuration's list.
    ///
    /// # Errors
    /// It is empty, or an entry is no SPIFFE ID with a path.
    pub fn new<T: AsRef<str>>(ids: impl IntoIterator<Item = T>) -> Result<Self, PeerIdsError> {
        let ids: BTreeSet<_> = ids.into_iter().map(|text| peer_id(text.as_ref())).collect::<Result<_, _>>()?;
        if ids.is_empty() { Err(PeerIdsError::Empty) } else { Ok(Self(ids)) }
    }

    pub(super) fn contains(&self, id: &SpiffeId) -> bool {
        self.0.contains(id)
    }

    /// The IDs in order.
    pub fn iter(&self) -> impl Iterator<Item = &SpiffeId> {
        self.0.iter()
    }
}

impl fmt::Display for PeerIds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, id) in self.0.iter().enumerate() {
            write!(out, "{}{id}", if index == 0 { "" } else { " or " })?;
        }
        Ok(())
    }
}

fn peer_id(text: &str) -> Result<SpiffeId, PeerIdsError> {
    let refuse = |why: String| PeerIdsError::NotAnId { text: text.to_owned(), why };
    let id = SpiffeId::new(text).map_err(|error| refuse(error.to_string()))?;
    if id.to_string() != text {
        return Err(refuse(format!("write {id}")));
    }
    if id.path().is_empty() {
        return Err(refuse("a trust domain is not enough, name the workload".to_owned()));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_peers_is_exact_and_not_empty() {
        assert_eq!(PeerIds::new(Vec::<String>::new()), Err(PeerIdsError::Empty));
        let two = PeerIds::new(["spiffe://example.org/b", "spiffe://example.org/a", "spiffe://example.org/a"]);
        assert_eq!(two.expect("good").to_string(), "spiffe://example.org/a or spiffe://example.org/b");
        for bad in ["spiffe://example.org", "spiffe://Example.org/a", "example.org/a", "spiffe://example.org/*", ""] {
            assert!(matches!(PeerIds::new([bad]), Err(PeerIdsError::NotAnId { .. })), "{bad}");
        }
    }
}
