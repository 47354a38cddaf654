//! JSON Object Signing and Encryption: keys, signatures, and the checks that a signed token must
//! pass. Pure functions: keys and the time are arguments; nothing here opens a file or a socket.
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
