//! Where a pod gets the Workload API's socket from.
use crate::kubernetes::names::{CSI_DRIVER, VOLUME_WORKLOAD_API};
use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;

/// The source of the Workload API's socket: the SPIFFE CSI driver, or a directory of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// A volume of `csi.spiffe.io`, which the Restricted Pod Security Standard admits.
    Csi {
        /// The socket's file name in the volume.
        file: String,
    },
    /// A directory of the node, which only the Privileged Pod Security Standard admits.
    HostPath {
        /// The directory's absolute path.
        directory: String,
        /// The socket's file name in the directory.
        file: String,
    },
}

/// The text does not name a socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a socket: write `csi`, `csi:FILE`, or `hostPath:/DIRECTORY/FILE` such as hostPath:/run/spire/agent-sockets/api.sock"
)]
pub struct SocketError(String);

/// The file name that SPIRE's charts give the socket in a CSI volume.
const CSI_FILE: &str = "spire-agent.sock";

impl Default for Socket {
    fn default() -> Self {
        Self::Csi { file: CSI_FILE.to_owned() }
    }
}

impl FromStr for Socket {
    type Err = SocketError;

    fn from_str(text: &str) -> Result<Self, SocketError> {
        let refuse = || SocketError(text.to_owned());
        match text.split_once(':') {
            None if text == "csi" => Ok(Self::default()),
            Some(("csi", file)) if is_file_name(file) => Ok(Self::Csi { file: file.to_owned() }),
            Some(("hostPath", path)) => {
                let (directory, file) = path.rsplit_once('/').ok_or_else(refuse)?;
                if is_directory(directory) && is_file_name(file) {
                    Ok(Self::HostPath { directory: directory.to_owned(), file: file.to_owned() })
                } else {
                    Err(refuse())
                }
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Csi { file } if file == CSI_FILE => f.write_str("csi"),
            Self::Csi { file } => write!(f, "csi:{file}"),
            Self::HostPath { directory, file } => write!(f, "hostPath:{directory}/{file}"),
        }
    }
}

impl Socket {
    /// Returns the socket's file name in the sidecar's volume.
    pub(super) fn file(&self) -> &str {
        match self {
            Self::Csi { file } | Self::HostPath { file, .. } => file,
        }
    }

    /// Returns the pod's volume that contains the socket.
    pub(super) fn volume(&self) -> Value {
        match self {
            Self::Csi { .. } => json!({"name": VOLUME_WORKLOAD_API, "csi": {"driver": CSI_DRIVER, "readOnly": true}}),
            Self::HostPath { directory, .. } => {
                json!({"name": VOLUME_WORKLOAD_API, "hostPath": {"path": directory, "type": "Directory"}})
            }
        }
    }

    /// Returns the directory of the node that contains the socket, if it comes from one.
    pub(super) fn directory(&self) -> Option<&str> {
        match self {
            Self::Csi { .. } => None,
            Self::HostPath { directory, .. } => Some(directory),
        }
    }
}

fn is_file_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && text.chars().all(is_path_character)
}

fn is_directory(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_file_name))
}

/// Whether a URL takes the character as it is, so that `unix:///DIRECTORY/FILE` needs no escapes.
fn is_path_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_is_parsed_and_displayed() {
        for text in ["csi", "csi:api.sock", "hostPath:/run/spire/agent-sockets/api.sock"] {
            assert_eq!(text.parse::<Socket>().expect(text).to_string(), text);
        }
        assert_eq!("csi:spire-agent.sock".parse(), Ok(Socket::default()));
        for text in ["", "CSI", "csi:", "csi:a/b", "csi:..", "hostPath", "hostPath:", "hostPath:/api.sock"] {
            assert!(text.parse::<Socket>().is_err(), "{text}");
        }
        for text in ["hostPath:run/a/b.sock", "hostPath:/run/../etc/a", "hostPath:/run//a.sock", "hostPath:/run/a/"] {
            assert!(text.parse::<Socket>().is_err(), "{text}");
        }
    }
}
