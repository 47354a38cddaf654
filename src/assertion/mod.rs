//! The claims of the JWTs that this proxy signs, and chains of actors. Nothing here does I/O or
//! reads a clock: the time is an argument.
mod actor;
mod claims;

pub use actor::{Actor, ActorError, DEFAULT_MAX_DEPTH};
pub use claims::{
    CLIENT_ASSERTION_LIFETIME, CLIENT_ASSERTION_TYP, ClientAssertion, DEFAULT_LIFETIME, ID_JAG_TYP, IdJag,
    MAX_LIFETIME, new_jti,
};
