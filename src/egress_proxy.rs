//! The HTTP proxy through which connections leave a network: which hosts are reached through it,
//! and how it opens a tunnel (CONNECT, RFC 9110 §9.3.6).
use crate::host::without_brackets;
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use ipnet::IpNet;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// A longer head of an answer is refused.
const MAX_HEAD: usize = 16 * 1024;
/// The most fields in the head of an answer.
const MAX_FIELDS: usize = 64;

/// An egress proxy.
#[derive(Debug)]
pub struct EgressProxy {
    /// Its host, an IPv6 address in brackets.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// What is reached without it, in addition to this machine.
    pub except: Vec<Exception>,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<Secret>,
}

/// What is reached without the egress proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exception {
    /// One host.
    Host(Box<str>),
    /// Every host whose name ends with this text, which begins with a dot.
    Suffix(Box<str>),
    /// Hosts that are spelled as an address in this range. Names are not resolved for it.
    Range(IpNet),
}

/// Why the egress proxy opened no tunnel.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelError {
    /// It answered with another status than 2xx.
    #[error("the egress proxy {} ({})", describe(*.0), .0.as_u16())]
    Refused(StatusCode),
    /// It did not answer, or not with HTTP.
    #[error("the egress proxy broke off or sent no valid answer to CONNECT: {0}")]
    Broken(String),
}

/// What a refusal of the egress proxy means.
fn describe(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => "asks for credentials or does not accept them",
        StatusCode::FORBIDDEN => "does not allow connections to this host",
        status if status.is_server_error() => "could not connect to this host",
        _ => "refused to connect to this host",
    }
}

impl EgressProxy {
    /// The value of `Proxy-Authorization` for `user:password` (RFC 7617 §2).
    pub fn basic(credentials: &Secret) -> Secret {
        let encoded = Zeroizing::new(STANDARD.encode(credentials.expose()));
        Secret::new(format!("Basic {}", *encoded))
    }

    /// Whether a host, which is in lower case, is reached through the proxy. This machine never is.
    pub fn serves(&self, host: &str) -> bool {
        let address = without_brackets(host).parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let is_this_machine = host == "localhost"
            || host.ends_with(".localhost")
            || address.is_some_and(|address| address.is_loopback() || address.is_unspecified());
        !is_this_machine
            && !self.except.iter().any(|exception| match exception {
                Exception::Host(name) => **name == *host,
                Exception::Suffix(suffix) => host.ends_with(&**suffix),
                Exception::Range(range) => address.is_some_and(|address| range.contains(&address)),
            })
    }

    /// Asks for a tunnel to `authority`, which is `host:port`, on a new connection to the proxy.
    ///
    /// # Errors
    /// The proxy refuses, breaks off, or does not speak HTTP.
    pub async fn open_tunnel(&self, mut stream: TcpStream, authority: &str) -> Result<TcpStream, TunnelError> {
        let broken = |error: std::io::Error| TunnelError::Broken(error.to_string());
        let mut head = Zeroizing::new(format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n"));
        if let Some(authorization) = &self.authorization {
            head.extend(["proxy-authorization: ", authorization.expose(), "\r\n"]);
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.map_err(broken)?;
        let status = read_status(&mut stream).await?;
        if status.is_success() { Ok(stream) } else { Err(TunnelError::Refused(status)) }
    }
}

/// Reads the head of the answer to CONNECT, and nothing behind it.
async fn read_status(stream: &mut TcpStream) -> Result<StatusCode, TunnelError> {
    let broken = |why: &str| TunnelError::Broken(why.to_owned());
    let mut head = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut head).await.map_err(|error| TunnelError::Broken(error.to_string()))? == 0 {
            return Err(broken("it closed the connection"));
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(&head) {
            Ok(httparse::Status::Complete(length)) => {
                let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
                let status = status.ok_or_else(|| broken("its status is not valid"))?;
                // A client speaks first over TLS and HTTP, so that nothing can follow yet.
                let is_early = status.is_success() && length < head.len();
                return if is_early { Err(broken("data follows before the tunnel is used")) } else { Ok(status) };
            }
            Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => {}
            Ok(httparse::Status::Partial) => return Err(broken("the head of its answer is too long")),
            Err(error) => return Err(broken(&error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn proxy(authorization: Option<Secret>) -> EgressProxy {
        let except = vec![
            Exception::Host("direct.example".into()),
            Exception::Suffix(".internal".into()),
            Exception::Range("10.0.0.0/8".parse().expect("a range")),
        ];
        EgressProxy { host: "proxy.example".into(), port: 3128, except, authorization }
    }

    #[test]
    fn exceptions_and_this_machine_are_reached_directly() {
        for (host, is_served) in [
            ("api.example", true),
            ("direct.example", false),
            ("a.direct.example", true),
            ("api.internal", false),
            ("internal", true),
            ("10.1.2.3", false),
            ("[::ffff:10.1.2.3]", false),
            ("11.1.2.3", true),
            ("[2001:db8::1]", true),
            ("localhost", false),
            ("api.localhost", false),
            ("127.8.9.1", false),
            ("[::1]", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(proxy(None).serves(host), is_served, "{host}");
        }
    }

    /// The request that the proxy gets, and the result if it answers like this.
    async fn exchange(authorization: Option<Secret>, answer: &str) -> (String, Result<(), TunnelError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (mut accepted, _) = listener.accept().await.expect("accepted");
        let asked = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                accepted.read_buf(&mut head).await.expect("read");
            }
            accepted.write_all(answer.as_bytes()).await.expect("written");
            accepted.shutdown().await.expect("shut down");
            String::from_utf8(head).expect("text")
        };
        let proxy = proxy(authorization);
        let (head, opened) = tokio::join!(asked, proxy.open_tunnel(stream, "api.example:443"));
        (head, opened.map(drop))
    }

    #[tokio::test]
    async fn tunnel_is_asked_for_with_the_credentials() {
        let credentials = EgressProxy::basic(&Secret::new("agent:canary".to_owned()));
        let (head, opened) = exchange(Some(credentials), "HTTP/1.1 200 Connection established\r\n\r\n").await;
        assert_eq!(
            head,
            "CONNECT api.example:443 HTTP/1.1\r\nhost: api.example:443\r\nproxy-authorization: Basic YWdlbnQ6Y2FuYXJ5\r\n\r\n"
        );
        assert!(opened.is_ok(), "{opened:?}");
        let (head, _) = exchange(None, "HTTP/1.0 204 x\r\nvia: a\r\n\r\n").await;
        assert_eq!(head, "CONNECT api.example:443 HTTP/1.1\r\nhost: api.example:443\r\n\r\n");
    }

    #[tokio::test]
    async fn refusal_is_told_in_words_with_its_status() {
        for (answer, expected) in [
            ("HTTP/1.1 407 x\r\n\r\n", "asks for credentials or does not accept them (407"),
            ("HTTP/1.1 403 x\r\ncontent-length: 2\r\n\r\nno", "does not allow connections to this host (403"),
            ("HTTP/1.1 502 x\r\n\r\n", "could not connect to this host (502"),
            ("HTTP/1.1 302 x\r\n\r\n", "refused to connect to this host (302"),
            ("SSH-2.0-x\r\n\r\n", "no valid answer"),
            ("HTTP/1.1 200 x\r\n", "it closed the connection"),
            ("HTTP/1.1 200 x\r\n\r\nearly", "data follows"),
        ] {
            let error = exchange(None, answer).await.1.expect_err(answer);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
