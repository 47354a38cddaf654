//! What the service answers calls from.
use super::proto::{JwtBundlesResponse, X509BundlesResponse, X509svidResponse};
use crate::dev::ca::JwtAuthority;
use std::time::Duration;
use tonic::Code;

/// How many calls of each kind have come in, refused ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// `FetchX509SVID` streams opened.
    pub x509_svid: u64,
    /// `FetchX509Bundles` streams opened.
    pub x509_bundles: u64,
    /// `FetchJWTSVID` calls.
    pub jwt_svid: u64,
    /// `FetchJWTBundles` streams opened.
    pub jwt_bundles: u64,
}

/// What calls are answered from.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) mode: Mode,
    /// A stream ends when this differs from what it was when the stream began.
    pub(super) epoch: u64,
    pub(super) x509_svids: X509svidResponse,
    pub(super) x509_bundles: X509BundlesResponse,
    pub(super) jwt_bundles: JwtBundlesResponse,
    pub(super) identities: Vec<Issued>,
    pub(super) jwt: JwtAuthority,
    pub(super) jwt_svid_ttl: Duration,
    pub(super) jwt_refusal: Option<Code>,
}

#[derive(Debug)]
pub(super) struct Issued {
    pub(super) spiffe_id: String,
    pub(super) hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Serve,
    Hang,
    Refuse(Code),
}
