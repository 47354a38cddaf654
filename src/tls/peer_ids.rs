//! The SPIFFE IDs that a server may have.
use crate::identity::SpiffeId;
use std::collections::BTreeSet;
use std::fmt;

/// The SPIFFE IDs that a server may have, as an exact and non-empty list. A federated trust domain
/// is trusted only if one of its IDs is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIds(BTreeSet<SpiffeId>);

/// Why a list of SPIFFE IDs is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdsError {
    /// The list is empty.
    #[error("the list of SPIFFE IDs is empty: name at least one, such as spiffe://example.org/reports")]
    Empty,
    /// An entry is not the SPIFFE ID of a workload.
    #[error("{text:?} is not the SPIFFE ID of a workload: {why}")]
    NotAnId {
        /// The entry as written.
        text: String,
        /// The rule that it breaks.
        why: String,
    },
}

impl PeerIds {
    /// Reads the list of the configuration.
    ///
    /// # Errors
    /// The list is empty, or an entry is not a SPIFFE ID with a path.
    pub fn new<T: AsRef<str>>(ids: impl IntoIterator<Item = T>) -> Result<Self, PeerIdsError> {
        let ids: BTreeSet<_> = ids.into_iter().map(|text| peer_id(text.as_ref())).collect::<Result<_, _>>()?;
        if ids.is_empty() { Err(PeerIdsError::Empty) } else { Ok(Self(ids)) }
    }

    pub(super) fn contains(&self, id: &SpiffeId) -> bool {
        self.0.contains(id)
    }

    /// Returns the IDs in alphabetical order.
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
        return Err(refuse("a trust domain alone is not enough, name the workload".to_owned()));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ids_must_be_exact_and_not_empty() {
        assert_eq!(PeerIds::new(Vec::<String>::new()), Err(PeerIdsError::Empty));
        let two = PeerIds::new(["spiffe://example.org/b", "spiffe://example.org/a", "spiffe://example.org/a"]);
        assert_eq!(two.expect("good").to_string(), "spiffe://example.org/a or spiffe://example.org/b");
        for bad in ["spiffe://example.org", "spiffe://Example.org/a", "example.org/a", "spiffe://example.org/*", ""] {
            assert!(matches!(PeerIds::new([bad]), Err(PeerIdsError::NotAnId { .. })), "{bad}");
        }
    }
}
