//! The claims of the JWTs that this proxy signs, and chains of actors. Pure functions:
//! the time is an argument; nothing here opens a file or a socket.
mod actor;
mod claims;

pub use actor::{Actor, ActorError, DEFAULT_MAX_DEPTH};
pub use claims::{
    CLIENT_ASSERTION_LIFETIME, CLIENT_ASSERTION_TYP, ClientAssertion, DEFAULT_LIFETIME, ID_JAG_TYP, IdJag,
    MAX_LIFETIME, new_jti,
};
