//! The X.509 stream of the Workload API on the wire. The `spiffe` crate's own stream drops the
//! SPIFFE ID that a message names, and does not distinguish a message that it cannot read from a
//! broken stream. The certificates and keys inside are left to that crate.
use super::material::{Material, UpdateRefused};
use bytes::{Buf, Bytes};
use prost::Message;
use std::collections::HashMap;
use std::fmt;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use zeroize::{Zeroize, Zeroizing};

/// The largest message in bytes. It has room for several hundred authorities; no real trust bundle
/// is larger.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Opens `FetchX509SVID`. The metadata proves that the caller is not a browser or a server that was
/// tricked into the request (SPIFFE Workload Endpoint §4).
pub(super) async fn open(channel: Channel) -> Result<Streaming<Bytes>, Status> {
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = tonic::Request::new(());
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let path = http::uri::PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
    Ok(client.server_streaming(request, path, Undecoded).await?.into_inner())
}

/// Reads one message and takes the SVID with `hint` (SPIFFE Workload API §5.2.1), or without a hint
/// the first one (§5.3).
pub(super) fn read(message: Bytes, hint: Option<&str>) -> Result<Material, UpdateRefused> {
    let mut response =
        X509SvidResponse::decode(message).map_err(|error| UpdateRefused::Undecodable(error.to_string()))?;
    if response.svids.is_empty() {
        return Err(UpdateRefused::Missing("svids"));
    }
    for svid in &response.svids {
        svid.check_mandatory()?;
    }
    let chosen = match hint {
        None => 0,
        Some(wanted) => response
            .svids
            .iter()
            .position(|svid| svid.hint == wanted)
            .ok_or_else(|| UpdateRefused::Hint { wanted: wanted.to_owned(), offered: offered(&response.svids) })?,
    };
    let mut svid = response.svids.swap_remove(chosen);
    Ok(Material {
        chain: std::mem::take(&mut svid.x509_svid),
        key: Zeroizing::new(std::mem::take(&mut svid.x509_svid_key)),
        bundle: std::mem::take(&mut svid.bundle),
        federated: std::mem::take(&mut response.federated_bundles).into_iter().collect(),
        named: Some(std::mem::take(&mut svid.spiffe_id)),
        hint: Some(std::mem::take(&mut svid.hint)).filter(|hint| !hint.is_empty()),
    })
}

fn offered(svids: &[X509Svid]) -> String {
    let hints: Vec<_> = svids.iter().map(|svid| format!("{:?} for {}", svid.hint, svid.spiffe_id)).collect();
    hints.join(", ")
}

/// `X509SVIDResponse`. Its CRLs (field 2) are not read, because no known Workload API sends any.
#[derive(Clone, PartialEq, Message)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Vec<u8>>,
}

/// `X509SVID`: one SVID with its key and bundle.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

impl X509Svid {
    /// An empty mandatory field makes the whole message invalid (SPIFFE Workload API §4.5).
    fn check_mandatory(&self) -> Result<(), UpdateRefused> {
        for (empty, field) in [
            (self.spiffe_id.is_empty(), "spiffe_id"),
            (self.x509_svid.is_empty(), "x509_svid"),
            (self.x509_svid_key.is_empty(), "x509_svid_key"),
            (self.bundle.is_empty(), "bundle"),
        ] {
            if empty {
                return Err(UpdateRefused::Missing(field));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("X509Svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl Drop for X509Svid {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

/// A codec that leaves messages undecoded, so that one that cannot be decoded is a refused
/// update and does not end the stream.
struct Undecoded;

impl Codec for Undecoded {
    type Encode = ();
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Undecoded {
    type Item = ();
    type Error = Status;

    /// `X509SVIDRequest` has no fields, so its encoding has no bytes.
    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Undecoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(hint: &str) -> X509Svid {
        X509Svid {
            spiffe_id: format!("spiffe://example.org/{hint}"),
            x509_svid: vec![1],
            x509_svid_key: vec![2],
            bundle: vec![3],
            hint: hint.to_owned(),
        }
    }

    fn message(svids: Vec<X509Svid>) -> Bytes {
        X509SvidResponse { svids, federated_bundles: HashMap::new() }.encode_to_vec().into()
    }

    #[test]
    fn hint_selects_the_svid_and_unknown_hint_is_refused() {
        let two = || message(vec![entry("internal"), entry("external")]);
        let named = |hint| read(two(), hint).map(|material| material.named.unwrap_or_default());
        assert_eq!(named(None), Ok("spiffe://example.org/internal".to_owned()));
        assert_eq!(named(Some("external")), Ok("spiffe://example.org/external".to_owned()));
        let refused = named(Some("agent")).expect_err("no such hint").to_string();
        assert!(refused.contains("\"agent\"") && refused.contains("\"internal\""), "{refused}");
    }

    #[test]
    fn duplicate_hint_selects_the_first_svid() {
        let mut second = entry("same");
        second.spiffe_id = "spiffe://example.org/second".to_owned();
        let material = read(message(vec![entry("same"), second]), Some("same")).expect("good");
        assert_eq!(material.named.as_deref(), Some("spiffe://example.org/same"));
    }

    #[test]
    fn empty_mandatory_field_invalidates_the_message() {
        assert_eq!(read(Bytes::new(), None).err(), Some(UpdateRefused::Missing("svids")));
        type Change = fn(&mut X509Svid);
        let changes: [(Change, &str); 4] = [
            (|svid| svid.spiffe_id.clear(), "spiffe_id"),
            (|svid| svid.x509_svid.clear(), "x509_svid"),
            (|svid| svid.x509_svid_key.clear(), "x509_svid_key"),
            (|svid| svid.bundle.clear(), "bundle"),
        ];
        for (change, field) in changes {
            let mut bad = entry("b");
            change(&mut bad);
            // The message is invalid even if another SVID would be selected.
            assert_eq!(read(message(vec![entry("a"), bad]), None).err(), Some(UpdateRefused::Missing(field)));
        }
    }

    #[test]
    fn garbage_is_undecodable() {
        assert!(matches!(read(Bytes::from_static(b"\xff\xff\xff"), None), Err(UpdateRefused::Undecodable(_))));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_message_does_not_panic(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            at in 0_usize..40,
            byte: u8,
        ) {
            let _ = read(bytes.into(), None);
            let mut damaged = message(vec![entry("a"), entry("b")]).to_vec();
            let at = at % damaged.len();
            damaged[at] = byte;
            let _ = read(damaged.into(), Some("b"));
        }
    }

    #[test]
    fn debug_contains_no_key() {
        let shown = format!("{:?}", X509SvidResponse { svids: vec![entry("a")], federated_bundles: HashMap::new() });
        assert!(!shown.contains("[2]") && !shown.contains("key"), "{shown}");
    }
}
