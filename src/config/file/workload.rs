//! The workload's identity, and the assertions that it signs.
use crate::config::decode::{Decode, Decoder, Definitions};
use crate::config::describe::record;
use crate::config::leaf::{Count, FilePath, Issuer, SecretPath, Text};
use crate::config::tree::{Node, Value};
use serde_json::json;
use std::time::Duration;

record! {
    /// The workload's identity: from the Workload API, or from files.
    IdentityFile {
        /// The SPIFFE Workload API.
        workload_api: Option<WorkloadApiFile>,
        /// Files that somebody else keeps current, such as spiffe-helper or cert-manager.
        files: Option<FilesFile>,
        /// The assertions that this workload signs itself.
        assertion: AssertionFile = "{}",
    }
}

record! {
    /// The SPIFFE Workload API.
    WorkloadApiFile {
        /// `unix:///path` or `tcp://IP:port`. Absent: what `SPIFFE_ENDPOINT_SOCKET` says.
        socket: Option<Text>,
        /// Which identity, where the Workload API offers several.
        hint: Option<Text>,
    }
}

record! {
    /// An X.509-SVID in PEM files, read again when they change.
    FilesFile {
        /// The certificate, then its intermediates.
        certificate: FilePath,
        /// The private key.
        key: SecretPath,
        /// The trust bundle of the own trust domain: PEM certificates.
        bundle: FilePath,
    }
}

record! {
    /// The assertions that this workload signs itself (flow `self_issued`). Without a key of its own here they are signed with the SVID's.
    AssertionFile {
        /// `iss` of the assertions. Absent: the SPIFFE ID. Required with `key_file`, because that key is found by its issuer.
        issuer: Option<Issuer>,
        /// A private key in PEM, instead of the SVID's.
        key_file: Option<SecretPath>,
        /// The key's id. Absent: its RFC 7638 thumbprint.
        kid: Option<Text>,
        /// Earlier keys that are still published, until the last assertion that they signed has expired.
        retired: Vec<RetiredKeyFile> = "[]",
        /// How long an assertion is valid.
        lifetime: Duration = "5m",
        /// The longest chain of actors, this agent included, that is signed.
        max_depth: Count = "3",
    }
}

/// An earlier key: its file, or its file and its id.
#[derive(Clone, Debug)]
pub(crate) struct RetiredKeyFile {
    pub(crate) key_file: SecretPath,
    pub(crate) kid: Option<Text>,
}

record! {
    /// An earlier key and its id.
    RetiredKeyMappingFile {
        /// The key in PEM.
        key_file: SecretPath,
        /// Its id. Absent: its RFC 7638 thumbprint.
        kid: Option<Text>,
    }
}

impl Decode for RetiredKeyFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        if matches!(node.value, Value::Map(_)) {
            let RetiredKeyMappingFile { key_file, kid } = Decode::decode(node, decoder)?;
            return Some(Self { key_file, kid });
        }
        Some(Self { key_file: Decode::decode(node, decoder)?, kid: None })
    }

    fn expected() -> String {
        "the path of a key file, or a mapping with `key_file` and `kid`".to_owned()
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        json!({ "anyOf": [SecretPath::describe(definitions), RetiredKeyMappingFile::describe(definitions)] })
    }
}
