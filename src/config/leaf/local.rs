//! Values that name something on this machine: addresses, sockets, files.
use crate::config::decode::Leaf;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

impl Leaf for SocketAddr {
    const EXPECTED: &'static str = "an address such as `127.0.0.1:17080` or `[::1]:17080`";

    fn parse(text: &str) -> Result<Self, String> {
        match Self::from_str(text) {
            Ok(address) => Ok(address),
            Err(_) if text.starts_with("localhost:") => {
                Err("write `127.0.0.1` or `[::1]`, because a name may resolve to any address".into())
            }
            Err(_) if text.starts_with(':') => Err("write `0.0.0.0` or `[::]` for every interface".into()),
            Err(_) => Err("it is not an IP address with a port".into()),
        }
    }
}

/// An address range. An address alone stands for the range that has only this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network(pub(crate) IpNet);

impl Leaf for Network {
    const EXPECTED: &'static str = "an address range such as `10.0.0.0/8` or `fd00::/8`";

    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.into()));
        }
        let Ok(range) = text.parse::<IpNet>() else { return Err("it is not an IP address with a prefix".into()) };
        match range.trunc() {
            first if first == range => Ok(Self(range)),
            first => Err(format!("the range of this address is `{first}`")),
        }
    }
}

/// The URL of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnixUrl(pub(crate) PathBuf);

impl Leaf for UnixUrl {
    const EXPECTED: &'static str = "a Unix socket such as `unix:///run/idjag-proxy/outbound.sock`";

    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => AbsolutePath::parse(path).map(|AbsolutePath(path)| Self(path)),
            _ => Err("write three slashes, because the path must be absolute".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^unix:///." })
    }
}

/// The Unix socket of the admin interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminSocket(pub(crate) PathBuf);

impl Leaf for AdminSocket {
    const EXPECTED: &'static str = "a Unix socket such as `unix:///run/idjag-proxy/admin.sock`";

    fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with("unix:") {
            return Err("use a Unix socket: the agent shares the network and could reach any other listener".into());
        }
        UnixUrl::parse(text).map(|UnixUrl(path)| Self(path))
    }

    fn schema() -> Value {
        UnixUrl::schema()
    }
}

/// An absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AbsolutePath(pub(crate) PathBuf);

impl Leaf for AbsolutePath {
    const EXPECTED: &'static str = "an absolute path such as `/run/idjag-proxy/outbound.sock`";

    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix('/') {
            Some("") => Err("it is a directory".into()),
            Some(_) if !text.chars().any(char::is_control) => Ok(Self(PathBuf::from(text))),
            Some(_) => Err("it contains a control character".into()),
            None => Err("write it from the root, with a slash at the start".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^/." })
    }
}

/// The number of a user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uid(pub(crate) u32);

impl Leaf for Uid {
    const EXPECTED: &'static str = "the number of a user, such as `1000`";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            // The highest number stands for no user (chown(2)).
            Ok(uid) if uid != u32::MAX => Ok(Self(uid)),
            _ => Err("it is not a number from 0 to 4294967294".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 })
    }
}

/// The path of a file without secrets, relative to the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl Leaf for FilePath {
    const EXPECTED: &'static str = "the path of a file";

    fn parse(text: &str) -> Result<Self, String> {
        file_path(text).map(Self)
    }
}

/// The path of a file that holds a secret, relative to the configuration file. Environment
/// variables are not expanded in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretPath(pub(crate) PathBuf);

impl Leaf for SecretPath {
    const EXPECTED: &'static str = "the path of a file";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        file_path(text).map(Self)
    }
}

fn file_path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("it is empty".into()),
        _ if text.contains("-----BEGIN") => Err("this is the content: write it to a file and give the path".into()),
        _ if text.chars().any(char::is_control) => Err("it contains a control character".into()),
        _ => Ok(PathBuf::from(text)),
    }
}

/// The version of the file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version;

impl Leaf for Version {
    const EXPECTED: &'static str = "the version of the file format, which is 1";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        if text == "1" { Ok(Self) } else { Err("this program supports version 1".into()) }
    }

    fn schema() -> Value {
        json!({ "const": 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::leaf::{accepts, refuses};

    #[test]
    fn invalid_address_socket_or_path_is_refused() {
        refuses::<SocketAddr>(&["localhost:80", ":80", "127.0.0.1", "a:1"]);
        accepts::<AbsolutePath>(&["/run/a.sock"]);
        refuses::<AbsolutePath>(&["", "/", "run/a.sock", "unix:///run/a.sock"]);
        accepts::<Uid>(&["0", "65532"]);
        refuses::<Uid>(&["", "-1", "root", "4294967295"]);
        accepts::<AdminSocket>(&["unix:///run/a.sock"]);
        refuses::<AdminSocket>(&["unix://run", "unix:///run/\na", "/run/a.sock", "127.0.0.1:1"]);
        accepts::<UnixUrl>(&["unix:///run/a.sock"]);
        refuses::<UnixUrl>(&["unix:/run/a.sock", "unix://run", "unix:///", "unix:///run/\na", "/run/a.sock"]);
        accepts::<Network>(&["10.0.0.0/8", "10.1.2.3", "fd00::/8", "::/0", "::1"]);
        refuses::<Network>(&["10.0.0.1/8", "10.0.0.0/33", "example.com", "", "10.0.0.0-10.0.0.9"]);
        refuses::<SecretPath>(&["", "-----BEGIN PRIVATE KEY-----"]);
    }
}
