//! Connections to authorization servers: TCP without Nagle's algorithm, TLS by the server's
//! settings, and plain http only where it is allowed.
use super::settings::PlainHttp;
use crate::egress_proxy::EgressProxy;
use crate::host::without_brackets;
use crate::tls::reason;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;
use url::Url;

/// Makes the connections to one server.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) tls: TlsConnector,
    pub(super) plain_http: Arc<PlainHttp>,
    pub(super) deadline: Duration,
    pub(super) egress_proxy: Option<Arc<EgressProxy>>,
}

/// Why a connection could not be made. Nothing of a request has been sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Tcp(String),
    #[error("{0}")]
    Tls(String),
    #[error("no connection within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("plain http is not allowed to this host")]
    PlainHttp,
}

/// A connection, over TLS or over plain http where that is allowed.
pub(super) enum Transport {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connector {
    async fn connect(self, uri: http::Uri) -> Result<Transport, ConnectError> {
        if uri.scheme_str() == Some("https") {
            let host = without_brackets(uri.host().unwrap_or_default()).to_owned();
            let name = ServerName::try_from(host)
                .map_err(|_| ConnectError::Tls("the URL has no host name for TLS".to_owned()))?;
            let stream = self.open(uri).await?;
            let stream = self.tls.connect(name, stream.into_inner()).await.map_err(|error| handshake(&error))?;
            return Ok(Transport::Tls(Box::new(TokioIo::new(stream))));
        }
        let url = Url::parse(&uri.to_string()).map_err(|_| ConnectError::PlainHttp)?;
        if self.plain_http.lists(&url) {
            self.open(uri).await.map(Transport::Plain)
        } else if self.plain_http.allows(&url) {
            self.tcp(uri, HttpConnector::new_with_resolver(LoopbackResolver)).await.map(Transport::Plain)
        } else {
            Err(ConnectError::PlainHttp)
        }
    }

    /// Connects to the host of a URI, directly or through the egress proxy.
    async fn open(&self, uri: http::Uri) -> Result<TokioIo<TcpStream>, ConnectError> {
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let Some(proxy) = self.egress_proxy.as_ref().filter(|proxy| proxy.serves(&host)) else {
            return self.tcp(uri, HttpConnector::new()).await;
        };
        let unreachable = |why: String| ConnectError::Tcp(format!("the egress proxy cannot be reached: {why}"));
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let proxy_uri = format!("http://{}:{}", proxy.host, proxy.port);
        let proxy_uri = proxy_uri.parse().map_err(|_| unreachable("its URL is not valid".to_owned()))?;
        let stream = self.tcp(proxy_uri, HttpConnector::new()).await.map_err(|error| match error {
            ConnectError::Tcp(why) => unreachable(why),
            error => error,
        })?;
        let tunnel = proxy.open_tunnel(stream.into_inner(), &format!("{host}:{port}")).await;
        tunnel.map(TokioIo::new).map_err(|error| ConnectError::Tcp(error.to_string()))
    }

    async fn tcp<R>(&self, uri: http::Uri, mut connector: HttpConnector<R>) -> Result<TokioIo<TcpStream>, ConnectError>
    where
        HttpConnector<R>: Service<http::Uri, Response = TokioIo<TcpStream>, Error: std::error::Error + 'static>,
    {
        connector.set_nodelay(true);
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(self.deadline));
        connector.call(uri).await.map_err(|error| {
            let io = |error: &(dyn std::error::Error + 'static)| error.downcast_ref::<io::Error>().map(io::Error::kind);
            let slow = causes(&error).any(|cause| io(cause) == Some(io::ErrorKind::TimedOut));
            if slow { ConnectError::Timeout(self.deadline) } else { ConnectError::Tcp(reason(&error)) }
        })
    }
}

impl Service<http::Uri> for Connector {
    type Response = Transport;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Transport, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let deadline = connector.deadline;
            tokio::time::timeout(deadline, connector.connect(uri)).await.unwrap_or(Err(ConnectError::Timeout(deadline)))
        })
    }
}

/// Resolves `localhost`, and keeps only loopback addresses: the name alone guarantees nothing.
#[derive(Clone)]
struct LoopbackResolver;

impl Service<Name> for LoopbackResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let loopback: Vec<_> = found.filter(|address| address.ip().is_loopback()).collect();
            if loopback.is_empty() {
                return Err(io::Error::other(format!("{} is not a loopback address", name.as_str())));
            }
            Ok(loopback.into_iter())
        })
    }
}

/// Classifies a failed handshake. A connection that broke during it is not a TLS error.
fn handshake(error: &io::Error) -> ConnectError {
    if tls_error(error).is_some() { ConnectError::Tls(reason(error)) } else { ConnectError::Tcp(reason(error)) }
}

/// The error and its sources, outermost first.
pub(super) fn causes<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The rustls error, which may be wrapped in an `io::Error`.
pub(super) fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    error.downcast_ref::<rustls::Error>().or_else(|| error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref())
}

impl Connection for Transport {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl Write for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The connector checks again what its callers have already checked.
    #[tokio::test]
    async fn plain_http_to_another_host_is_refused() {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(crate::identity::crypto_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let deadline = Duration::from_secs(3);
        let mut connector =
            Connector { tls: Arc::new(config).into(), plain_http: Arc::default(), deadline, egress_proxy: None };
        let result = connector.call("http://192.0.2.1/".parse().expect("a URI")).await;
        assert!(matches!(result.err(), Some(ConnectError::PlainHttp)));
    }
}
