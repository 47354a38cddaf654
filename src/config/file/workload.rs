//! The workload's identity, and the assertions that it signs.
use crate::config::decode::{Decode, Decoder, Definitions};
use crate::config::describe::record;
use crate::config::leaf::{Count, FilePath, Issuer, SecretPath, Text};
use crate::config::tree::{Node, Value};
use serde_json::json;
use std::time::Duration;

record! {
    /// The workload's identity, from the Workload API or from files.
    IdentityFile {
        /// The SPIFFE Workload API.
        workload_api: Option<WorkloadApiFile>,
        /// Files that another program keeps current, such as spiffe-helper or cert-manager.
        files: Option<FilesFile>,
        /// The assertions that this workload signs itself.
        assertion: AssertionFile = "{}",
    }
}

record! {
    /// The SPIFFE Workload API.
    WorkloadApiFile {
        /// `unix:///path` or `tcp://IP:port`. Absent: the value of `SPIFFE_ENDPOINT_SOCKET`.
        socket: Option<Text>,
        /// Which identity to use if the Workload API offers several.
        hint: Option<Text>,
    }
}

record! {
    /// An X.509-SVID in PEM files, which are read again when they change.
    FilesFile {
        /// The certificate, followed by its intermediates.
        certificate: FilePath,
        /// The private key.
        key: SecretPath,
        /// The trust bundle of the workload's own trust domain: PEM certificates.
        bundle: FilePath,
    }
}

record! {
    /// The assertions that this workload signs itself (flow `self_issued`). Without `key_file` they
    /// are signed with the SVID's key.
    AssertionFile {
        /// The `iss` of the assertions. Absent: the SPIFFE ID. Required with `key_file`, because
        /// verifiers find that key by its issuer.
        issuer: Option<Issuer>,
        /// The file with a private key in PEM, used instead of the SVID's key.
        key_file: Option<SecretPath>,
        /// The key's id. Absent: its RFC 7638 thumbprint.
        kid: Option<Text>,
        /// Earlier keys that stay published until the last assertion they signed has expired.
        retired: Vec<RetiredKeyFile> = "[]",
        /// How long an assertion is valid.
        lifetime: Duration = "5m",
        /// The longest chain of actors that is signed, including this agent.
        max_depth: Count = "3",
    }
}

/// An earlier key: its file alone, or its file and its id.
#[derive(Clone, Debug)]
pub(crate) struct RetiredKeyFile {
    pub(crate) key_file: SecretPath,
    pub(crate) kid: Option<Text>,
}

record! {
    /// An earlier key and its id.
    RetiredKeyMappingFile {
        /// The file with the key in PEM.
        key_file: SecretPath,
        /// The key's id. Absent: its RFC 7638 thumbprint.
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
