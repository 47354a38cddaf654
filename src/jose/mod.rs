//! JSON Object Signing and Encryption: keys, signatures, and the checks that a signed token must
//! pass. Nothing here does I/O or reads a clock: keys and the time are arguments.
mod error;
mod json;
mod jwk;
mod jws;
mod key;
mod public_key;
#[cfg(test)]
pub(crate) mod vectors;
mod verify;

pub use error::InvalidToken;
pub use json::{JsonError, object};
pub use jwk::{KeySet, KeySetError, jwks};
pub use jws::{MAX_TOKEN_BYTES, Unverified, same_typ};
pub use key::{KeyError, SignError, SigningKey};
pub use verify::{Rules, TokenKind, Verified, verify};
