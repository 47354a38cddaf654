//! The state that the service answers calls from.
use super::proto::{JwtBundlesResponse, X509BundlesResponse, X509svidResponse};
use crate::dev::ca::JwtAuthority;
use std::time::Duration;
use tonic::Code;

/// How many calls of each kind have arrived, including refused ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// How many `FetchX509SVID` streams were opened.
    pub x509_svid: u64,
    /// How many `FetchX509Bundles` streams were opened.
    pub x509_bundles: u64,
    /// How many `FetchJWTSVID` calls were made.
    pub jwt_svid: u64,
    /// How many `FetchJWTBundles` streams were opened.
    pub jwt_bundles: u64,
}

/// The state that calls are answered from.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) mode: Mode,
    /// Changes when the streams that are open have to end.
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
