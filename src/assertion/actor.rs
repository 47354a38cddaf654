//! The `act` claim (RFC 8693 §4.1): a chain of actors. The outermost one is the current actor, and
//! each contains the one before it.
use serde::Serialize;
use serde_json::Value;

/// The longest chain of actors, unless the configuration sets another limit.
pub const DEFAULT_MAX_DEPTH: usize = 3;

/// One actor and, nested in it, the actors before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// Names the actor, uniquely within `iss`, or globally where there is no `iss` (a SPIFFE ID).
    pub sub: String,
    /// The issuer that names the actor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The actor before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Actor>>,
}

/// Why a chain of actors cannot be extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActorError {
    /// An actor is not an object, has no `sub`, or has a member whose type differs from RFC 8693.
    #[error("the `act` claim is not a chain of actors with a `sub` each (RFC 8693 section 4.1)")]
    Malformed,
    /// The chain has more actors than allowed.
    #[error("the chain of actors is longer than `max_depth` ({0}) allows")]
    TooDeep(usize),
    /// The chain names an actor twice: the delegation returned to it.
    #[error("the chain of actors names one actor twice")]
    Loop,
}

impl Actor {
    /// Reads an `act` claim of at most `max_depth` actors. Members other than `sub`, `iss` and
    /// `act` do not identify anybody and are dropped.
    pub fn parse(claim: &Value, max_depth: usize) -> Result<Self, ActorError> {
        let mut links = Vec::new();
        let mut next = Some(claim);
        while let Some(claim) = next {
            if links.len() == max_depth {
                return Err(ActorError::TooDeep(max_depth));
            }
            let members = claim.as_object().ok_or(ActorError::Malformed)?;
            let sub = members
                .get("sub")
                .and_then(Value::as_str)
                .filter(|sub| !sub.is_empty())
                .ok_or(ActorError::Malformed)?;
            let iss = match members.get("iss") {
                None => None,
                Some(Value::String(iss)) => Some(iss.clone()),
                Some(_) => return Err(ActorError::Malformed),
            };
            links.push((sub.to_owned(), iss));
            next = members.get("act");
        }
        let chain = links
            .into_iter()
            .rev()
            .fold(None, |act: Option<Box<Self>>, (sub, iss)| Some(Box::new(Self { sub, iss, act })));
        let chain = *chain.ok_or(ActorError::TooDeep(max_depth))?;
        chain.checked(max_depth)
    }

    /// Makes `current` the current actor, around the actors `before` it.
    pub fn wrap(current: &str, before: Option<Self>, max_depth: usize) -> Result<Self, ActorError> {
        Self { sub: current.to_owned(), iss: None, act: before.map(Box::new) }.checked(max_depth)
    }

    /// Iterates over the chain, from the current actor to the first one.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |actor| actor.act.as_deref())
    }

    /// Whether both may be the same actor. A `sub` without `iss` may belong to any issuer.
    fn may_equal(&self, other: &Self) -> bool {
        self.sub == other.sub && (self.iss.is_none() || other.iss.is_none() || self.iss == other.iss)
    }

    /// Checks the length of the chain, and that it names no actor twice.
    fn checked(self, max_depth: usize) -> Result<Self, ActorError> {
        let chain: Vec<_> = self.chain().collect();
        if chain.len() > max_depth {
            return Err(ActorError::TooDeep(max_depth));
        }
        let loops =
            chain.iter().enumerate().any(|(at, actor)| chain.iter().skip(at + 1).any(|inner| actor.may_equal(inner)));
        if loops { Err(ActorError::Loop) } else { Ok(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrap_nests_the_earlier_actor() {
        let before = Actor::parse(&json!({"sub": "orchestrator", "iss": "https://a", "sub_profile": "ai_agent"}), 3)
            .expect("one");
        let act = Actor::wrap("worker", Some(before), 3).expect("two");
        assert_eq!(
            serde_json::to_value(&act).expect("json"),
            json!({"sub": "worker", "act": {"sub": "orchestrator", "iss": "https://a"}})
        );
        assert_eq!(act.chain().map(|actor| actor.sub.as_str()).collect::<Vec<_>>(), ["worker", "orchestrator"]);
    }

    #[test]
    fn chain_beyond_max_depth_is_refused() {
        let three = json!({"sub": "c", "act": {"sub": "b", "act": {"sub": "a"}}});
        let before = Actor::parse(&three, 3).expect("three");
        assert_eq!(Actor::wrap("d", Some(before), 3), Err(ActorError::TooDeep(3)));
        assert_eq!(Actor::parse(&three, 2), Err(ActorError::TooDeep(2)));
        assert_eq!(Actor::wrap("d", None, 0), Err(ActorError::TooDeep(0)));
        assert_eq!(Actor::parse(&three, 0), Err(ActorError::TooDeep(0)));
    }

    #[test]
    fn actor_named_twice_is_a_loop() {
        let before = Actor::parse(&json!({"sub": "b", "act": {"sub": "a", "iss": "https://x"}}), 3).expect("chain");
        assert_eq!(Actor::wrap("a", Some(before), 3), Err(ActorError::Loop));
        let two_issuers = json!({"sub": "a", "iss": "https://x", "act": {"sub": "a", "iss": "https://y"}});
        assert!(Actor::parse(&two_issuers, 3).is_ok());
    }

    #[test]
    fn malformed_chain_is_refused() {
        for claim in [
            json!("a"),
            json!({}),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": "a", "iss": 7}),
            json!({"sub": "a", "act": null}),
        ] {
            assert_eq!(Actor::parse(&claim, 3), Err(ActorError::Malformed), "{claim}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_claims_never_panic(text in ".{0,40}", number in proptest::num::f64::ANY) {
            for value in [json!(text), json!(number), json!([text]), json!({ text.clone(): number }), Value::Null] {
                let _ = Actor::parse(&value, 3);
            }
        }
    }
}
