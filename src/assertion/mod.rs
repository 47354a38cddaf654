//! What this proxy says about itself and others, as signed JWTs, and what it believes of the JWTs that others sign. Pure functions:
//! keys, claims and the instant are arguments; nothing here opens a file or a socket.
mod actor;
mod claims;
mod json;
mod jwk;
mod jws;
mod key;
#[cfg(test)]
pub(crate) mod vectors;
mod verify;

pub use actor::{Actor, ActorError, DEFAULT_MAX_DEPTH};
pub use claims::{
    CLIENT_ASSERTION_LIFETIME, CLIENT_ASSERTION_TYP, ClientAssertion, DEFAULT_LIFETIME, ID_JAG_TYP, IdJag,
    MAX_LIFETIME, new_jti,
};
pub use json::{JsonError, object};
pub use jwk::{KeySet, KeySetError, jwks};
pub use jws::{MAX_TOKEN_BYTES, Unverified, same_typ};
pub use key::{KeyError, SignError, SigningKey};
pub use verify::{Refused, Rules, UserTokenKind, Verified, verify};
