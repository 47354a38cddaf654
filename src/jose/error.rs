//! Why a token is not believed.

/// Why a token was not believed. The text never repeats the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Longer than [`super::MAX_TOKEN_BYTES`].
    #[error("is too long")]
    TooLong,
    /// Not a compact JWT.
    #[error("{0}")]
    Malformed(&'static str),
    /// A `crit` header: nothing in it is known here (JB-2).
    #[error("has a `crit` header, of which nothing is supported")]
    Critical,
    /// `alg` is `none`, symmetric, unknown, or not one of the key's.
    #[error("is signed with an algorithm that its key may not be used with")]
    Algorithm,
    /// `typ` is of another kind of token.
    #[error("has a `typ` of another kind of token")]
    Typ,
    /// No key of the issuer fits; a fresh key set may have it.
    #[error("names a key that its issuer does not publish")]
    UnknownKey,
    /// Several keys fit.
    #[error("could be signed by several of its issuer's keys and does not say by which")]
    AmbiguousKey,
    /// The signature is not by that key.
    #[error("has a wrong signature")]
    Signature,
    /// Another issuer.
    #[error("has another `iss` than the server it is expected from")]
    Issuer,
    /// For somebody else.
    #[error("has an `aud` that does not name us")]
    Audience,
    /// Over.
    #[error("has expired")]
    Expired,
    /// `nbf` or `iat` lies ahead.
    #[error("is not valid yet")]
    NotYet,
    /// A claim is missing or of the wrong type.
    #[error("has no usable claim `{0}`")]
    Claim(&'static str),
}
