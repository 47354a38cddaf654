//! Why a token is invalid.

/// Why a token is invalid. The text never repeats the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is longer than [`super::MAX_TOKEN_BYTES`].
    #[error("is too long")]
    TooLong,
    /// It is not a compact JWT.
    #[error("{0}")]
    Malformed(&'static str),
    /// It has a `crit` header, and no critical extension is supported (RFC 7515 §4.1.11).
    #[error("has a `crit` header, and no critical extension is supported")]
    Critical,
    /// `alg` is `none`, symmetric, unknown, or not allowed for the key.
    #[error("is signed with an algorithm that its key may not be used with")]
    Algorithm,
    /// `typ` belongs to another kind of token.
    #[error("has a `typ` of another kind of token")]
    Typ,
    /// The issuer has no such key; a newer key set may have it.
    #[error("names a key that its issuer does not publish")]
    UnknownKey,
    /// Several keys of the issuer fit, and no `kid` names one of them.
    #[error("could be signed by several of its issuer's keys and does not say by which")]
    AmbiguousKey,
    /// The signature was not made with that key.
    #[error("has a wrong signature")]
    Signature,
    /// `iss` is another issuer.
    #[error("has another `iss` than the server it is expected from")]
    Issuer,
    /// `aud` does not name us.
    #[error("has an `aud` that does not name us")]
    Audience,
    /// `azp` of an ID token for several audiences does not name us (OpenID Connect Core 1.0
    /// §3.1.3.7).
    #[error("has several audiences and an `azp` that does not name us")]
    AuthorizedParty,
    /// The time in `exp` has passed.
    #[error("has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("is not valid yet")]
    NotYet,
    /// A claim is missing or has the wrong type.
    #[error("has no usable claim `{0}`")]
    Claim(&'static str),
}
